"""Whoever waits for an engine gets one in order of gain, or an explicit error; nobody is forgotten. Simulated time."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from pool_queue_bench import BUSY, IDLE, SECOND, Pool, error_of, request
from proserve_core.routing import Binding, FleetView, RouteDecision
from proserve_core.routing.late_gain import DEPTH_S, TICK_S, LateGain
from proserve_gateway.errors import ApiError
from proserve_gateway.fleet.lease import Lease, Outcome

pytestmark = pytest.mark.looptime


async def test_engine_with_room_gets_the_request_at_once() -> None:
    pool = Pool("a", "b")
    pool.shows("a", BUSY)
    began_s = asyncio.get_running_loop().time()
    lease = await pool.ask(request())
    assert lease.endpoint.name == "b"
    assert asyncio.get_running_loop().time() == began_s
    assert pool.fleet.waiting == 0


async def test_request_waits_until_an_engine_has_room() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    task = pool.ask(request())
    await asyncio.sleep(0.5)
    assert pool.fleet.waiting == 1
    pool.shows("a", IDLE)
    assert (await task).endpoint.name == "a"


async def test_end_of_a_request_makes_room() -> None:
    pool = Pool("a")
    first = await pool.ask(request("first", 100 * SECOND, weight=100))
    waiting = pool.ask(request("second"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    first.close(Outcome.ANSWERED)
    pool.shows("a", IDLE)
    assert (await waiting).endpoint.name == "a"


async def test_those_who_bring_more_per_second_go_first() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    order: list[str] = []
    tasks = [
        pool.ask(request("light", SECOND)),
        pool.ask(request("heavy", SECOND, weight=4)),
        pool.ask(request("short", SECOND // 2)),
    ]
    for task in tasks:
        task.add_done_callback(lambda done: order.append(done.get_name()))
    await asyncio.sleep(2 * TICK_S)
    pool.shows("a", IDLE)
    for _ in range(3):
        await asyncio.sleep(DEPTH_S + 1)
        pool.shows("a", IDLE)
    await asyncio.gather(*tasks)
    assert order == ["heavy", "short", "light"]


async def test_client_that_leaves_is_out_of_the_room_at_once() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    gone, stays = pool.ask(request("gone")), pool.ask(request("stays"))
    await asyncio.sleep(0.1)
    gone.cancel()
    await asyncio.wait({gone})
    assert (pool.fleet.waiting, len(pool.room)) == (1, 1)
    pool.shows("a", IDLE)
    assert (await stays).endpoint.name == "a"


class LeavesWhenBound(LateGain):
    """The client of the next request leaves while it is being bound."""

    leaving: asyncio.Task[Lease]

    def bind(self, fleet: FleetView) -> Iterator[Binding]:
        for binding in super().bind(fleet):
            self.leaving.cancel()
            yield binding


async def test_client_that_leaves_while_it_is_bound_leaves_nothing_at_the_engine() -> None:
    room = LeavesWhenBound()
    pool = Pool("a", room=room)
    pool.shows("a", BUSY)
    room.leaving = pool.ask(request("gone"))
    await asyncio.sleep(0.1)
    pool.shows("a", IDLE)
    await asyncio.wait({room.leaving})
    assert room.leaving.cancelled()
    assert not pool.engine("a").view.dispatched


async def test_request_whose_time_is_up_is_told() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    error = await error_of(pool.ask(request(), patience_s=3.0))
    assert (error.status, error.code) == (429, "overloaded")
    assert "queue_time" in error.message
    assert (pool.fleet.waiting, len(pool.room)) == (0, 0)


async def test_request_that_needs_a_prospect_is_told_when_it_has_none() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    asked = request("r", ttft_s=1.0)
    sheds = pool.ask(asked, needs_prospect=True)
    keeps = pool.ask(request("k", ttft_s=1.0))
    error = await error_of(sheds)
    waited_s = asyncio.get_running_loop().time() - asked.arrival_s
    # Of outputs of any length with this mean, one in fifty is four times as long.
    lasting_s = 1.0 + 4 * asked.expected_output_tokens * asked.terms.objectives.tpot_s
    assert "no_gain" in error.message
    assert 1.0 < waited_s < lasting_s
    await asyncio.sleep(lasting_s)
    assert not keeps.done()
    keeps.cancel()


async def test_request_whose_turn_would_come_too_late_is_told_at_once() -> None:
    """Others bring more per second and keep the engine busy for 50 s."""
    pool = Pool("a")
    pool.shows("a", BUSY)
    for number in range(50):
        pool.ask(request(f"heavy-{number}", SECOND, weight=100))
    await asyncio.sleep(0.1)
    error = await error_of(pool.ask(request("light", ttft_s=1.0), needs_prospect=True))
    assert "no_gain" in error.message
    assert error.retry_after_s is not None
    assert error.retry_after_s >= 1


async def test_retry_after_is_how_long_the_queue_of_the_class_takes() -> None:
    """One request a second gets through; forty wait."""
    pool = Pool("a")
    pool.shows("a", BUSY)
    tasks = [pool.ask(request(f"r{number}", SECOND)) for number in range(60)]
    for _ in range(20):
        await asyncio.sleep(1)
        pool.shows("a", IDLE)
    left = sum(not task.done() for task in tasks)
    error = await error_of(pool.ask(request("late"), patience_s=0.0))
    assert error.retry_after_s == pytest.approx(left, rel=0.25)
    for task in tasks:
        task.cancel()


async def test_retry_does_not_wait_behind_those_who_wait() -> None:
    pool = Pool("a", "b")
    pool.shows("a", BUSY)
    pool.shows("b", BUSY)
    waiting = pool.ask(request("waits", weight=100))
    await asyncio.sleep(0.1)
    lease = pool.fleet.choose("chat", request("retried"), frozenset({"a"}))
    assert lease.endpoint.name == "b"
    assert not waiting.done()
    waiting.cancel()


async def test_gateway_that_ends_tells_everybody_who_waits() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    tasks = [pool.ask(request("one")), pool.ask(request("two"))]
    await asyncio.sleep(0.1)
    pool.fleet.turn_away(lambda: ApiError(status=503, code="gateway_shutting_down", error_type="x", message="bye"))
    assert {(await error_of(task)).code for task in tasks} == {"gateway_shutting_down"}


class Counting(LateGain):
    """Counts how often it is asked."""

    asked = 0

    def bind(self, fleet: FleetView) -> Iterator[Binding]:
        self.asked += 1
        return super().bind(fleet)


async def test_empty_room_is_left_alone() -> None:
    room = Counting()
    pool = Pool("a", room=room)
    (await pool.ask(request())).close(Outcome.ANSWERED)
    asked = room.asked
    for _ in range(10):
        pool.shows("a", IDLE)
        await asyncio.sleep(1)
    assert room.asked == asked


class Faulty(LateGain):
    """Fails when two wait."""

    def bind(self, fleet: FleetView) -> Iterator[Binding]:
        if len(self) > 1:
            raise RuntimeError("a mistake")
        return super().bind(fleet)


async def test_fault_of_the_room_is_told_to_everybody_who_waits() -> None:
    pool = Pool("a", room=Faulty())
    pool.shows("a", BUSY)
    tasks = [pool.ask(request("one")), pool.ask(request("two"))]
    assert [(await error_of(task)).code for task in tasks] == ["internal_error", "internal_error"]
    assert len(pool.room) == 0


class Misdirecting(LateGain):
    """Binds to an engine that the gateway does not have."""

    def bind(self, fleet: FleetView) -> Iterator[Binding]:
        for binding in super().bind(fleet):
            yield msgspec.structs.replace(
                binding, decision=RouteDecision(engine="nowhere", reason="a mistake", candidates=("nowhere",))
            )


async def test_fault_with_a_request_that_was_bound_is_told_to_it_and_to_everybody_who_waits() -> None:
    pool = Pool("a", room=Misdirecting())
    pool.shows("a", BUSY)
    tasks = [pool.ask(request("one")), pool.ask(request("two"))]
    await asyncio.sleep(0.1)
    pool.shows("a", IDLE)
    async with asyncio.timeout(600):
        assert [(await error_of(task)).code for task in tasks] == ["internal_error", "internal_error"]
    assert (pool.fleet.waiting, len(pool.room)) == (0, 0)
