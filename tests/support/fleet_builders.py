"""Small builders for tests of routing policies: requests, snapshot rows, engine views, and a fleet of replicas."""

from collections.abc import Mapping, Sequence

from engine_builders import service_terms
from proserve_core.batching.registry import make_policy
from proserve_core.batching.state import EngineLimits
from proserve_core.capacity import CapacitySnapshot, RequestRow
from proserve_core.latency import LatencyModel
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import ServiceTerms
from proserve_core.replica import Replica
from proserve_core.routing import (
    Binding,
    Dispatched,
    EngineView,
    FleetView,
    RouteDecision,
    RoutingPolicy,
    RoutingRequest,
    WaitingRoom,
)

MS_PER_TOKEN = LatencyModel(
    host_s=0.0,
    floor_s=0.0,
    linear_base_s=0.0,
    linear_token_s=0.001,
    attention_s=0.0,
    context_s=0.0,
    sequence_s=0.0,
)
"""1 ms per token and nothing else: drain in ms is the number of queued tokens."""


def routing_request(
    prompt_tokens: int,
    *,
    name: str = "new",
    arrival_s: float = 0.0,
    terms: ServiceTerms | None = None,
    expected_output_tokens: float = 100.0,
    cached_tokens: Mapping[str, int] | None = None,
    prefix_blocks: tuple[int, ...] = (),
    tenant: str = "",
) -> RoutingRequest:
    return RoutingRequest(
        id=name,
        arrival_s=arrival_s,
        terms=terms or service_terms(),
        prompt_tokens=prompt_tokens,
        expected_output_tokens=expected_output_tokens,
        cached_tokens=cached_tokens or {},
        prefix_blocks=prefix_blocks,
        tenant=tenant,
    )


def prefill_row(tokens: int, *, due_s: float = 1.0, weight: float = 1.0, emitted: int = 0) -> RequestRow:
    """A queued request whose next token is due `due_s` after the snapshot."""
    return RequestRow(
        id=f"waits-{tokens}-{due_s}-{weight}",
        priority_class=f"weight-{weight:g}",
        weight=weight,
        first_token_gain=1.0,
        output_token_gain=1.0,
        tpot_s=0.05,
        decoding=False,
        resident=False,
        prefill_tokens=tokens,
        context_tokens=0,
        emitted_tokens=emitted,
        deadline_in_s=due_s,
    )


def decode_row(context: int, *, tpot_s: float = 0.05, weight: float = 1.0, due_s: float | None = None) -> RequestRow:
    """A request whose next token is due `due_s` after the snapshot, or in time for its TPOT."""
    return RequestRow(
        id=f"decodes-{context}",
        priority_class=f"weight-{weight:g}",
        weight=weight,
        first_token_gain=1.0,
        output_token_gain=1.0,
        tpot_s=tpot_s,
        decoding=True,
        resident=True,
        prefill_tokens=0,
        context_tokens=context,
        emitted_tokens=1,
        deadline_in_s=tpot_s if due_s is None else due_s,
    )


def capacity(
    *rows: RequestRow,
    latency: LatencyModel = MS_PER_TOKEN,
    policy: str = "slide-batching",
    free_blocks: int = 10_000,
    max_sequences: int = 256,
    step_age_s: float | None = None,
    step_predicted_s: float | None = None,
) -> CapacitySnapshot:
    return CapacitySnapshot(
        seq=1,
        engine_id="e",
        model="m",
        policy=policy,
        age_s=0.0,
        block_size=16,
        blocks=20_000,
        free_blocks=free_blocks,
        running=sum(row.resident for row in rows),
        waiting=sum(not row.resident for row in rows),
        max_sequences=max_sequences,
        max_step_tokens=8192,
        step_age_s=step_age_s,
        step_predicted_s=step_predicted_s,
        latency=latency,
        rows=rows,
    )


def sent(request: RoutingRequest, *, at_s: float | None = None, emitted: int = 0, counted: bool = False) -> Dispatched:
    return Dispatched(
        request=request,
        sent_s=request.arrival_s if at_s is None else at_s,
        emitted_tokens=emitted,
        in_snapshot=counted,
    )


def engine_view(
    name: str, snapshot: CapacitySnapshot | None, *dispatched: Dispatched, snapshot_s: float = 0.0
) -> EngineView:
    return EngineView(
        name=name,
        snapshot=snapshot,
        snapshot_s=snapshot_s,
        dispatched={entry.request.id: entry for entry in dispatched},
    )


def queue_of(name: str, tokens: int, **options: int | str) -> EngineView:
    """An engine with `tokens` ms of prefills queued, all of them without worth, so that only load counts."""
    rows = [prefill_row(tokens, weight=0.0, due_s=1e6)] if tokens else []
    return engine_view(name, capacity(*rows, **options))  # type: ignore[arg-type]


def choose(router: RoutingPolicy, request: RoutingRequest, *engines: EngineView, now_s: float = 0.0) -> RouteDecision:
    return router.choose(request, FleetView(now_s=now_s, engines=engines))


def bind_all(room: WaitingRoom, engines: Sequence[EngineView], *, now_s: float = 0.0) -> list[Binding]:
    """What the room binds now; entered in the views, as a gateway does."""
    views = {view.name: view for view in engines}
    bound = []
    for binding in room.bind(FleetView(now_s=now_s, engines=engines)):
        entry = Dispatched(request=binding.request, sent_s=now_s, cached_tokens=binding.cached_tokens)
        views[binding.decision.engine].dispatched[binding.request.id] = entry
        bound.append(binding)
    return bound


def first_token_s(
    router: RoutingPolicy,
    requests: Sequence[RoutingRequest],
    *,
    engines: Sequence[str],
    calibration: str = "h100-llama-3.1-8b",
    max_step_tokens: int = 8192,
    output_tokens: int = 50,
) -> dict[str, tuple[str, float]]:
    """Route requests (by arrival) over FCFS engines on a virtual clock: engine and time of first token of each."""
    data = load_calibration(calibration)
    limits = EngineLimits(
        block_size=data.block_size,
        blocks=data.blocks,
        max_sequences=data.max_sequences,
        max_step_tokens=max_step_tokens,
    )
    replicas = {
        name: Replica(policy=make_policy("fcfs"), policy_name="fcfs", limits=limits, latency=data.latency)
        for name in engines
    }
    ends_s: dict[str, float] = {}
    chosen: dict[str, str] = {}
    first_s: dict[str, float] = {}

    def run_until(until_s: float) -> None:
        while ends_s and min(ends_s.values()) <= until_s:
            name = min(ends_s, key=lambda engine: ends_s[engine])
            now_s = ends_s.pop(name)
            for emission in replicas[name].complete_step(now_s):
                first_s.setdefault(emission.id, now_s)
            begin(name, now_s)

    def begin(name: str, now_s: float) -> None:
        step = replicas[name].begin_step(now_s)
        if step is not None:
            ends_s[name] = now_s + step.duration_s

    for request in requests:
        now_s = request.arrival_s
        run_until(now_s)
        views = [engine_view(name, replica.snapshot(now_s), snapshot_s=now_s) for name, replica in replicas.items()]
        name = chosen[request.id] = choose(router, request, *views, now_s=now_s).engine
        replicas[name].submit(
            request_id=request.id,
            terms=request.terms,
            arrival_s=now_s,
            prompt_tokens=request.prompt_tokens,
            output_tokens=output_tokens,
        )
        if not replicas[name].busy:
            begin(name, now_s)
    run_until(float("inf"))
    return {request.id: (chosen[request.id], first_s[request.id]) for request in requests}
