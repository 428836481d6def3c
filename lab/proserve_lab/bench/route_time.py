"""CPU time of one routing decision: a request arrives at a fleet of which one engine has just told something new.

Engines are as busy as the case says, with snapshots drawn once; before each decision one of them, in turn, has a new
snapshot, so that its preparation counts, and each request that was sent ends after a while. Time passes as if every
engine got `REQUESTS_PER_S`. A policy that holds requests back keeps at most `WAITING` of them: where no engine has room
its decision is that there is none. A call that binds several counts as so many decisions of equal length.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from proserve_core.capacity import CapacitySnapshot, RequestRow
from proserve_core.latency.calibrations import Calibration, load_calibration
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_core.routing import Dispatched, EngineView, FleetView, RoutingRequest, WaitingRoom, make_room
from proserve_lab.judgement import percentile

TARGETS_US = {64: 200.0, 256: 500.0}
"""p99 of a decision, by engines."""
REQUESTS_PER_S = 20.0
WAITING = 200
"""Requests in the gateway at most."""
IN_FLIGHT_PER_ENGINE = 20
_CALIBRATION = "h100-llama-3.1-8b"
_POLICY = "recoverable-gain"
_WARM_UP = 100


class EngineLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How busy each engine is."""

    waiting: int
    decoding: int


LOADS = {"room": EngineLoad(waiting=5, decoding=60), "full": EngineLoad(waiting=40, decoding=200)}
"""With 5 prompts of 500 tokens waiting an engine still takes requests; with 40 it has more than it will do next."""


class RouteTime(msgspec.Struct, frozen=True, kw_only=True):
    """What decisions of one policy cost."""

    router: str
    engines: int
    load: str
    p10_us: float
    """What a machine that does nothing else would come near to."""
    p50_us: float
    p99_us: float
    target_us: float

    @property
    def met(self) -> bool:
        return self.p99_us <= self.target_us


def measure(*, router: str, engines: int, load: str, decisions: int, clock: Callable[[], float]) -> RouteTime:
    """Time `decisions` decisions.

    Args:
        router: any policy that `make_room` knows.
        engines: a key of `TARGETS_US`.
        load: a key of `LOADS`.
        clock: seconds, of CPU time best.
    """
    draw = random.Random(0)
    calibration = load_calibration(_CALIBRATION)
    views = [
        EngineView(name=f"engine-{number:03}", snapshot=None, snapshot_s=0.0, dispatched={})
        for number in range(engines)
    ]
    snapshots = [_snapshot(draw, calibration, LOADS[load]) for _ in views]
    by_name = {view.name: view for view in views}
    for view, snapshot in zip(views, snapshots, strict=True):
        view.snapshot = snapshot
    room = make_room(router)
    in_flight: deque[tuple[EngineView, str]] = deque()
    waiting: deque[str] = deque()
    took_s: list[float] = []
    for number in range(_WARM_UP + decisions):
        now_s = number / (REQUESTS_PER_S * engines)
        _tell(views[number % engines], snapshots[number % engines], now_s)
        request = _request(draw, f"r{number}", now_s)
        fleet = FleetView(now_s=now_s, engines=views)
        started_s = clock()
        before = len(in_flight)
        room.arrived(request)
        for binding in room.bind(fleet):
            view = by_name[binding.decision.engine]
            view.dispatched[binding.request.id] = Dispatched(request=binding.request, sent_s=now_s)
            in_flight.append((view, binding.request.id))
        bound = max(1, len(in_flight) - before)
        took_s += [(clock() - started_s) / bound] * bound
        waiting.append(request.id)
        _leave(room, waiting, in_flight, IN_FLIGHT_PER_ENGINE * engines)
    took_s = took_s[-decisions:]
    return RouteTime(
        router=router,
        engines=engines,
        load=load,
        p10_us=1e6 * (percentile(took_s, 10) or 0.0),
        p50_us=1e6 * (percentile(took_s, 50) or 0.0),
        p99_us=1e6 * (percentile(took_s, 99) or 0.0),
        target_us=TARGETS_US[engines],
    )


def report(times: Sequence[RouteTime]) -> str:
    """A table, each p99 beside its target."""
    rows = ["router             engines  load   p10 us   p50 us   p99 us   target"]
    for time in times:
        figures = "  ".join([f"{value:>7.0f}" for value in (time.p10_us, time.p50_us, time.p99_us)])
        target = f"<= {time.target_us:.0f}, {'met' if time.met else 'missed'}"
        rows.append(f"{time.router:<18} {time.engines:>7}  {time.load:<5} {figures}   {target}")
    return "\n".join(rows)


def _tell(view: EngineView, snapshot: CapacitySnapshot, now_s: float) -> None:
    """The engine publishes; what was sent before is in it."""
    view.snapshot, view.snapshot_s = msgspec.structs.replace(snapshot), now_s
    for entry in view.dispatched.values():
        entry.in_snapshot = True


def _leave(room: WaitingRoom, waiting: deque[str], in_flight: deque[tuple[EngineView, str]], most: int) -> None:
    """Requests end at engines, and the oldest give up waiting."""
    while len(in_flight) > most:
        view, request_id = in_flight.popleft()
        del view.dispatched[request_id]
    while len(room) > WAITING:
        room.left(waiting.popleft())


def _terms(draw: random.Random) -> ServiceTerms:
    weight = draw.choice((1, 2))
    return ServiceTerms(
        priority_class=f"class-{weight}",
        weight=weight,
        first_token_gain=1,
        output_token_gain=1,
        objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.05),
    )


def _request(draw: random.Random, name: str, now_s: float) -> RoutingRequest:
    return RoutingRequest(
        id=name,
        arrival_s=now_s,
        terms=_terms(draw),
        prompt_tokens=draw.randint(100, 900),
        expected_output_tokens=draw.uniform(50, 400),
    )


def _snapshot(draw: random.Random, calibration: Calibration, load: EngineLoad) -> CapacitySnapshot:
    rows = [_row(draw, f"d{number}", decoding=True) for number in range(load.decoding)]
    rows += [_row(draw, f"w{number}", decoding=False) for number in range(load.waiting)]
    return CapacitySnapshot(
        seq=1,
        engine_id="e",
        model="m",
        policy=_POLICY,
        age_s=0.0,
        block_size=calibration.block_size,
        blocks=calibration.blocks,
        free_blocks=calibration.blocks // 2,
        running=load.decoding,
        waiting=load.waiting,
        max_sequences=calibration.max_sequences,
        max_step_tokens=calibration.max_step_tokens,
        step_age_s=0.0,
        step_predicted_s=0.02,
        latency=calibration.latency,
        rows=tuple(rows),
    )


def _row(draw: random.Random, name: str, *, decoding: bool) -> RequestRow:
    terms = _terms(draw)
    return RequestRow(
        id=name,
        priority_class=terms.priority_class,
        weight=terms.weight,
        first_token_gain=terms.first_token_gain,
        output_token_gain=terms.output_token_gain,
        tpot_s=terms.objectives.tpot_s,
        decoding=decoding,
        resident=decoding,
        prefill_tokens=0 if decoding else draw.randint(100, 900),
        context_tokens=draw.randint(100, 2000) if decoding else 0,
        emitted_tokens=draw.randint(1, 300) if decoding else 0,
        deadline_in_s=0.05 if decoding else draw.uniform(0.1, 1.0),
    )
