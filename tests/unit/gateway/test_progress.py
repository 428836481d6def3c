"""An engine that answers its polls and computes nothing is found out, and one that only takes long is not."""

import msgspec
import pytest

from fleet_builders import MS_PER_TOKEN, capacity, decode_row, prefill_row, routing_request
from proserve_core.capacity import CapacitySnapshot
from proserve_core.engine_metrics import EngineReading
from proserve_core.routing import ImmediateRoom
from proserve_core.routing.round_robin import RoundRobin
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.health import EngineState
from proserve_gateway.fleet.lease import Lease, Outcome
from proserve_gateway.fleet.progress import LONGER, LONGEST_GAP_S, STUCK_S
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.upstream.exchange import FailureKind

POLL_S = 0.5
IDLE = capacity()
STEP_S = STUCK_S / LONGER
"""Of a step that may take longer than any other pause."""


class Silent:
    """An exchange that never brings anything."""

    def __init__(self) -> None:
        self.given_up: FailureKind | None = None

    def give_up_if_silent(self, kind: FailureKind, why: str) -> None:
        assert "computed nothing" in why
        self.given_up = kind


class Bench:
    """Engines of one pool; what `a` publishes is up to the test, the others do well."""

    def __init__(self, *others: str) -> None:
        self.now_s = 1000.0
        self.fleet = Fleet(make_room=lambda _: ImmediateRoom(RoundRobin()), clock=lambda: self.now_s)
        names = ("a", *others)
        self.fleet.set_targets([EngineTarget(name=name, pool="chat", base_url=f"http://{name}:80") for name in names])
        self.a, *self.others = self.fleet.engines
        self.poll(IDLE)

    def poll(self, found: CapacitySnapshot | EngineReading | None) -> None:
        """All engines answer."""
        if found is None:
            self.fleet.probe_answered(self.a)
        elif isinstance(found, EngineReading):
            self.fleet.metrics_arrived(self.a, found)
        else:
            self.fleet.snapshot_arrived(self.a, found)
        for engine in self.others:
            self.fleet.snapshot_arrived(engine, IDLE)

    def watch(self, found: CapacitySnapshot | EngineReading | None, seconds: float) -> None:
        """It answers the same all the time."""
        for _ in range(round(seconds / POLL_S)):
            self.now_s += POLL_S
            self.poll(found)

    def send(self, prompt_tokens: int = 100) -> tuple[Lease, Silent]:
        """A request to `a`."""
        busy = frozenset(engine.target.name for engine in self.others)
        lease, exchange = self.fleet.choose("chat", routing_request(prompt_tokens), busy), Silent()
        lease.watch(exchange)
        return lease, exchange

    def state(self) -> EngineState:
        return self.fleet.status()[0].state


BUSY = capacity(decode_row(500), step_age_s=0.0, step_predicted_s=0.02)
READ = EngineReading(running=3, waiting=0, kv_usage=0.5, tokens=1000)


@pytest.mark.parametrize("found", [BUSY, READ])
def test_engine_that_says_the_same_while_it_has_work_gets_nothing_more(found: CapacitySnapshot | EngineReading) -> None:
    bench = Bench("b")
    bench.watch(found, STUCK_S - 1)
    assert bench.state() is EngineState.READY
    bench.watch(found, 2)
    assert bench.state() is EngineState.SUSPECTED
    assert "computed nothing" in bench.fleet.status()[0].last_error
    assert bench.fleet.choose("chat", routing_request(100)).endpoint.name == "b"


@pytest.mark.parametrize("found", [IDLE, EngineReading(running=0, waiting=0)])
def test_engine_that_shows_nothing_of_own_requests_is_stuck_whatever_it_says(
    found: CapacitySnapshot | EngineReading,
) -> None:
    bench = Bench("b")
    bench.send()
    bench.watch(found, STUCK_S + 2)
    assert bench.state() is EngineState.SUSPECTED


def test_new_requests_are_no_sign_of_life() -> None:
    bench = Bench("b")
    bench.watch(BUSY, 1)
    for number in range(round(STUCK_S) - 1):
        bench.fleet.choose("chat", routing_request(100, name=f"r{number}"), frozenset({"b"}))
        bench.watch(BUSY, 1)
    bench.watch(BUSY, 2)
    assert bench.state() is EngineState.SUSPECTED


@pytest.mark.parametrize(
    "moved",
    [
        msgspec.structs.replace(BUSY, seq=2),
        msgspec.structs.replace(BUSY, engine_id="restarted"),
        IDLE,
        msgspec.structs.replace(READ, tokens=1001),
        msgspec.structs.replace(READ, kv_usage=0.51),
    ],
)
def test_anything_that_moves_makes_it_ready_again(moved: CapacitySnapshot | EngineReading) -> None:
    bench = Bench("b")
    bench.watch(READ if isinstance(moved, EngineReading) else BUSY, STUCK_S + 2)
    assert bench.state() is EngineState.SUSPECTED
    bench.watch(moved, POLL_S)
    assert bench.state() is EngineState.READY


def test_request_that_is_held_back_while_others_advance_says_nothing() -> None:
    bench = Bench("b")
    lease, held_back = bench.send()
    other, _ = bench.send()
    for second in range(round(3 * STUCK_S)):
        bench.watch(msgspec.structs.replace(BUSY, seq=1 + second), 1)
    assert bench.state() is EngineState.READY
    for _ in range(round(3 * STUCK_S)):
        other.on_tokens(1, bench.now_s)
        bench.watch(READ, 1)
    assert bench.state() is EngineState.READY
    assert held_back.given_up is None
    lease.close(Outcome.CANCELLED)


def test_answer_without_tokens_is_a_sign_of_life() -> None:
    bench = Bench("b")
    for _ in range(round(3 * STUCK_S)):
        lease, _ = bench.send()
        bench.watch(READ, 1)
        lease.worked(bench.now_s)
        lease.close(Outcome.ANSWERED)
    assert bench.state() is EngineState.READY


def test_step_that_was_predicted_to_be_long_may_be_long() -> None:
    bench = Bench("b")
    long = capacity(decode_row(500), step_age_s=0.0, step_predicted_s=2 * STEP_S)
    bench.watch(long, 2 * STUCK_S - 1)
    assert bench.state() is EngineState.READY
    bench.watch(long, 2)
    assert bench.state() is EngineState.SUSPECTED


@pytest.mark.parametrize("own", [True, False])
def test_prompt_that_takes_long_to_read_may_take_long(own: bool) -> None:
    bench = Bench("b")
    tokens = round(2 * STEP_S / MS_PER_TOKEN.linear_token_s)
    if own:
        bench.send(tokens)
    found = capacity(decode_row(500)) if own else capacity(decode_row(500), prefill_row(tokens))
    bench.watch(found, 2 * STUCK_S - 1)
    assert bench.state() is EngineState.READY
    bench.watch(found, 2)
    assert bench.state() is EngineState.SUSPECTED


def test_pause_of_the_gateway_is_not_taken_for_the_engines() -> None:
    bench = Bench("b")
    bench.watch(BUSY, 1)
    bench.now_s += 3600.0
    bench.watch(BUSY, STUCK_S - 1 - LONGEST_GAP_S)
    assert bench.state() is EngineState.READY


def test_idle_engine_and_one_that_publishes_nothing_are_never_stuck() -> None:
    bench = Bench("b")
    bench.watch(IDLE, 3 * STUCK_S)
    assert bench.state() is EngineState.READY
    bench.send()
    bench.watch(None, 3 * STUCK_S)
    assert bench.state() is EngineState.READY


def test_requests_of_a_stuck_engine_are_given_up_where_another_one_takes_work() -> None:
    bench = Bench("b")
    lease, exchange = bench.send()
    bench.watch(BUSY, STUCK_S + 2)
    assert exchange.given_up is FailureKind.STUCK
    lease.close(Outcome.FAILED)
    bench.watch(BUSY, 1)
    assert bench.state() is EngineState.SUSPECTED


def test_requests_of_the_only_engine_wait_for_it() -> None:
    bench = Bench()
    _, exchange = bench.send()
    bench.watch(BUSY, STUCK_S + 2)
    assert bench.state() is EngineState.SUSPECTED
    assert exchange.given_up is None
    bench.watch(msgspec.structs.replace(BUSY, seq=2), 1)
    assert bench.state() is EngineState.READY
