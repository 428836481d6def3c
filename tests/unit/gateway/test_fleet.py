"""The fleet decides who may take work, counts own dispatches and forgets nothing."""

import msgspec
import pytest

from proserve_core.capacity import CapacitySnapshot, RequestRow
from proserve_core.latency import LatencyModel
from proserve_core.objectives import DEFAULT_CLASS
from proserve_core.routing import FleetView, ImmediateRoom, RouteDecision, RoutingRequest
from proserve_gateway.errors import ApiError
from proserve_gateway.fleet.fleet import ONLY_ENGINE, Fleet
from proserve_gateway.fleet.health import FAILURES_TO_OPEN, FIRST_OPEN_S, MISSES_TO_SUSPECT, EngineState
from proserve_gateway.fleet.lease import Outcome
from proserve_gateway.fleet.target import EngineTarget, TargetError, TlsPeer

LATENCY = LatencyModel(
    host_s=0.001, floor_s=0.01, linear_base_s=0.005, linear_token_s=1e-5, attention_s=0, context_s=0, sequence_s=0
)


class FirstEngine:
    """Always the first engine that may take work."""

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        return RouteDecision(engine=fleet.engines[0].name, reason="first")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def target(name: str, pool: str = "chat", port: int = 8000) -> EngineTarget:
    return EngineTarget(
        name=name, pool=pool, base_url=f"http://127.0.0.1:{port}", capacity_url="http://127.0.0.1:9400", api_key="sk-e"
    )


def request(id_: str = "r1") -> RoutingRequest:
    return RoutingRequest(
        id=id_, arrival_s=100.0, terms=DEFAULT_CLASS.terms(), prompt_tokens=10, expected_output_tokens=20
    )


def row(id_: str) -> RequestRow:
    return RequestRow(
        id=id_, priority_class="high", weight=1, first_token_gain=1, output_token_gain=1, tpot_s=0.05, decoding=False,
        resident=False, prefill_tokens=10, context_tokens=0, emitted_tokens=0, deadline_in_s=1.0,
    )  # fmt: skip


def snapshot(*rows: RequestRow, engine_id: str = "e", draining: bool = False, age_s: float = 0.0) -> CapacitySnapshot:
    return CapacitySnapshot(
        seq=1, engine_id=engine_id, model="m", policy="fcfs", age_s=age_s, block_size=16, blocks=100, free_blocks=50,
        running=1, waiting=0, max_sequences=8, max_step_tokens=512, latency=LATENCY, draining=draining, rows=rows,
    )  # fmt: skip


class Bench:
    """Two engines that have answered, `a` before `b`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.decisions: list[tuple[str, str]] = []
        self.fleet = Fleet(
            make_room=lambda _: ImmediateRoom(FirstEngine()),
            clock=self.clock,
            on_decision=lambda pool, why: self.decisions.append((pool, why)),
        )
        self.fleet.set_targets([target("a"), target("b", port=8001)])
        self.a, self.b = self.fleet.engines
        self.fleet.snapshot_arrived(self.a, snapshot())
        self.fleet.snapshot_arrived(self.b, snapshot())

    def chosen(self, **more: frozenset[str]) -> str:
        lease = self.fleet.choose("chat", request(), **more)
        lease.close(Outcome.CANCELLED)
        return lease.endpoint.name

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.fleet.choose("chat", request()).close(Outcome.FAILED, "connection refused")

    def state(self, name: str) -> EngineState:
        return next(row.state for row in self.fleet.status() if row.name == name)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_engine_that_never_answered_gets_nothing() -> None:
    fleet = Fleet(make_room=lambda _: ImmediateRoom(FirstEngine()), clock=Clock())
    fleet.set_targets([target("a")])
    with pytest.raises(ApiError) as caught:
        fleet.choose("chat", request())
    assert caught.value.status == 503
    assert caught.value.retry_after_s is not None
    assert "a starting" in caught.value.message


def test_unknown_pool_is_told_apart_from_busy_engines() -> None:
    fleet = Fleet(make_room=lambda _: ImmediateRoom(FirstEngine()), clock=Clock())
    with pytest.raises(ApiError, match="it has no engines"):
        fleet.choose("chat", request())


def test_choice_is_leased_until_it_is_closed(bench: Bench) -> None:
    lease = bench.fleet.choose("chat", request("r1"))
    lease.on_tokens(3, 0.0)
    assert bench.a.view.dispatched["r1"].emitted_tokens == 3
    assert bench.fleet.status()[0].in_flight == 1
    lease.close(Outcome.ANSWERED)
    assert bench.a.view.dispatched == {}
    assert bench.decisions == [("chat", "first")]


def test_excluded_engine_is_not_chosen_again(bench: Bench) -> None:
    assert bench.chosen(exclude=frozenset({"a"})) == "b"
    with pytest.raises(ApiError):
        bench.fleet.choose("chat", request(), exclude=frozenset({"a", "b"}))


def test_policy_is_not_asked_when_one_engine_is_left(bench: Bench) -> None:
    for _ in range(MISSES_TO_SUSPECT):
        bench.fleet.poll_missed(bench.a, "timed out")
    decision = bench.fleet.choose("chat", request()).decision
    assert (decision.engine, decision.reason, decision.candidates) == ("b", ONLY_ENGINE, ("b",))
    assert (decision.expected_ttft_s, decision.expected_gain) == (None, None)
    assert bench.decisions == [("chat", ONLY_ENGINE)]


def test_missed_polls_suspect_an_engine_until_it_answers(bench: Bench) -> None:
    for _ in range(MISSES_TO_SUSPECT):
        bench.fleet.poll_missed(bench.a, "timed out")
    assert bench.state("a") is EngineState.SUSPECTED
    assert bench.chosen() == "b"
    bench.fleet.snapshot_arrived(bench.a, snapshot())
    assert bench.chosen() == "a"


def test_one_missed_poll_changes_nothing(bench: Bench) -> None:
    bench.fleet.poll_missed(bench.a, "timed out")
    assert bench.chosen() == "a"


def test_draining_engine_gets_nothing_new(bench: Bench) -> None:
    bench.fleet.snapshot_arrived(bench.a, snapshot(draining=True))
    assert bench.chosen() == "b"
    assert bench.state("a") is EngineState.DRAINING


def test_failures_in_a_row_open_the_circuit_and_a_probe_closes_it(bench: Bench) -> None:
    bench.fail(FAILURES_TO_OPEN)
    assert bench.state("a") is EngineState.CIRCUIT_OPEN
    assert bench.chosen() == "b"
    bench.clock.now_s += FIRST_OPEN_S
    assert bench.state("a") is EngineState.HALF_OPEN
    probe = bench.fleet.choose("chat", request("probe"))
    assert probe.endpoint.name == "a"
    assert bench.chosen() == "b", "one probe at a time"
    probe.on_tokens(1, 0.0)
    assert bench.chosen() == "a"


def test_failed_probe_opens_the_circuit_for_twice_as_long(bench: Bench) -> None:
    bench.fail(FAILURES_TO_OPEN)
    bench.clock.now_s += FIRST_OPEN_S
    bench.fail(1)
    bench.clock.now_s += 1.5 * FIRST_OPEN_S
    assert bench.chosen() == "b"
    bench.clock.now_s += 0.5 * FIRST_OPEN_S
    assert bench.chosen() == "a"


def test_probe_that_ends_in_doubt_is_a_failed_one(bench: Bench) -> None:
    bench.fail(FAILURES_TO_OPEN)
    bench.clock.now_s += FIRST_OPEN_S
    bench.fleet.choose("chat", request()).close(Outcome.DOUBTFUL, "HTTP 500")
    assert bench.state("a") is EngineState.CIRCUIT_OPEN


def test_success_between_failures_keeps_the_circuit_closed(bench: Bench) -> None:
    bench.fail(FAILURES_TO_OPEN - 1)
    bench.fleet.choose("chat", request()).close(Outcome.ANSWERED)
    bench.fail(FAILURES_TO_OPEN - 1)
    assert bench.chosen() == "a"


def test_cancelled_probe_frees_the_place_for_the_next_one(bench: Bench) -> None:
    bench.fail(FAILURES_TO_OPEN)
    bench.clock.now_s += FIRST_OPEN_S
    assert bench.chosen() == "a"
    assert bench.chosen() == "a"


@pytest.mark.parametrize(
    "row_id", ["chatcmpl-r1-0a1b2c3d", "cmpl-r1-0-0a1b2c3d", "1_chatcmpl-r1-0a1b2c3d", "chatcmpl-r1", "r1"]
)
def test_own_request_in_a_snapshot_is_not_counted_twice(bench: Bench, row_id: str) -> None:
    bench.fleet.choose("chat", request("r1"))
    bench.fleet.choose("chat", request("r2"))
    bench.fleet.snapshot_arrived(bench.a, snapshot(row(row_id), row("chatcmpl-other-0a1b2c3d")))
    assert bench.a.view.dispatched["r1"].in_snapshot
    assert not bench.a.view.dispatched["r2"].in_snapshot


def test_request_sent_long_before_the_snapshot_counts_as_seen(bench: Bench) -> None:
    bench.fleet.choose("chat", request("r1"))
    bench.clock.now_s += 5.0
    bench.fleet.snapshot_arrived(bench.a, snapshot(age_s=4.5))
    assert not bench.a.view.dispatched["r1"].in_snapshot
    bench.fleet.snapshot_arrived(bench.a, snapshot(age_s=0.0))
    assert bench.a.view.dispatched["r1"].in_snapshot


def test_restarted_engine_knows_none_of_the_old_requests(bench: Bench) -> None:
    bench.fleet.choose("chat", request("r1"))
    bench.fleet.snapshot_arrived(bench.a, snapshot(row("chatcmpl-r1-x")))
    bench.fleet.snapshot_arrived(bench.a, snapshot(engine_id="new process"))
    assert not bench.a.view.dispatched["r1"].in_snapshot


def test_engine_without_capacity_is_usable_and_known_by_its_dispatches() -> None:
    fleet = Fleet(make_room=lambda _: ImmediateRoom(FirstEngine()), clock=Clock())
    fleet.set_targets([EngineTarget(name="plain", pool="chat", base_url="https://models.example.com/openai/v1")])
    (engine,) = fleet.engines
    fleet.probe_answered(engine)
    lease = fleet.choose("chat", request())
    assert not lease.endpoint.has_capacity
    assert (lease.endpoint.host, lease.endpoint.port, lease.endpoint.tls) == ("models.example.com", 443, True)
    assert lease.endpoint.base_path == "/openai"
    assert engine.view.snapshot is None
    assert list(engine.view.dispatched) == ["r1"]


def test_capacity_is_recorded_with_its_age(bench: Bench) -> None:
    bench.fleet.snapshot_arrived(bench.a, snapshot(age_s=0.25))
    assert bench.a.view.snapshot_s == bench.clock.now_s - 0.25
    assert bench.fleet.choose("chat", request()).endpoint.has_capacity


def test_policy_of_a_pool_is_kept_until_the_pool_gets_another_one() -> None:
    class Counting:
        """A policy with state."""

        def __init__(self, name: str) -> None:
            self.name = name
            self.choices = 0

        def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
            self.choices += 1
            return RouteDecision(engine=fleet.engines[0].name, reason=f"{self.name} {self.choices}")

    fleet = Fleet(make_room=lambda policy: ImmediateRoom(Counting(policy)), clock=Clock())
    for policy, expected in (("old", "old 1"), ("old", "old 2"), ("new", "new 1"), ("old", "old 1")):
        fleet.set_targets([target("a"), target("b", port=8001)], {"chat": policy})
        for engine in fleet.engines:
            fleet.probe_answered(engine)
        assert fleet.choose("chat", request()).decision.reason == expected


def test_replacing_targets_keeps_known_engines_and_their_leases(bench: Bench) -> None:
    lease = bench.fleet.choose("chat", request())
    told: list[bool] = []
    bench.fleet.on_targets(lambda: told.append(True))
    bench.fleet.set_targets([target("b", port=8001), target("c", port=8002)])
    assert told
    assert bench.state("b") is EngineState.READY
    assert bench.state("c") is EngineState.STARTING
    assert bench.chosen() == "b"
    lease.on_tokens(1, 0.0)
    lease.close(Outcome.FAILED, "gone")


def test_engine_whose_key_and_authority_change_is_the_same_engine(bench: Bench) -> None:
    def secured(key: str, authority: str) -> EngineTarget:
        peer = TlsPeer(server_name="engine-chat.default.svc", authority=authority)
        return msgspec.structs.replace(target("a"), api_key=key, peer=peer)

    bench.fleet.set_targets([secured("old", "first"), target("b", port=8001)])
    engine, _ = bench.fleet.engines
    bench.fleet.snapshot_arrived(engine, snapshot())
    lease = bench.fleet.choose("chat", request())
    bench.fleet.set_targets([secured("new", "second"), target("b", port=8001)])
    assert next(iter(bench.fleet.engines)) is engine
    assert bench.state("a") is EngineState.READY
    assert list(engine.view.dispatched) == ["r1"]
    endpoint = bench.fleet.choose("chat", request("r2")).endpoint
    assert endpoint.peer is not None
    assert endpoint.peer.authority == "second"
    lease.close(Outcome.ANSWERED)
    assert list(engine.view.dispatched) == ["r2"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([target("a"), target("a")], "used twice"),
        ([EngineTarget(name="a", pool="chat", base_url="10.0.0.7:8000")], "write it like http://"),
        ([EngineTarget(name="a", pool="chat", base_url="http://x:99999")], "write it like http://"),
        (
            [EngineTarget(name="a", pool="chat", base_url="http://x", capacity_url="unix:/tmp/s")],
            "capacity_url 'unix:/tmp/s'",
        ),
    ],
)
def test_bad_targets_are_refused_as_a_whole(bench: Bench, targets: list[EngineTarget], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        bench.fleet.set_targets(targets)
    assert bench.chosen() == "a"


def test_engine_keys_do_not_show_in_reprs(bench: Bench) -> None:
    assert "sk-e" not in f"{target('a')!r} {target('a').endpoint(has_capacity=True)!r}"
