"""Waiting for an engine of a pool that has none that answers, none at all, or others than before. Simulated time."""

import asyncio

import pytest

from pool_queue_bench import BUSY, IDLE, Pool, error_of, request
from proserve_core.routing import ImmediateRoom
from proserve_core.routing.round_robin import RoundRobin
from proserve_gateway.fleet.health import FAILURES_TO_OPEN, FIRST_OPEN_S
from proserve_gateway.fleet.lease import Outcome
from proserve_gateway.fleet.pool_queue import OUTAGE_S

pytestmark = pytest.mark.looptime


async def test_who_arrives_in_a_short_outage_waits_for_its_end() -> None:
    pool = Pool("a")
    pool.misses("a")
    task = pool.ask(request())
    await asyncio.sleep(OUTAGE_S / 2)
    assert not task.done()
    pool.shows("a", IDLE)
    assert (await task).endpoint.name == "a"


async def test_nobody_is_let_in_while_an_outage_lasts() -> None:
    pool = Pool("a")
    pool.misses("a")
    await error_of(pool.ask(request("first")))
    error = await error_of(pool.ask(request("second")), within_s=0.0)
    assert (error.status, error.code) == (503, "no_engine_available")
    assert len(pool.room) == 0
    pool.shows("a", IDLE)
    pool.misses("a")
    later = pool.ask(request("third"))
    await asyncio.sleep(OUTAGE_S / 2)
    assert not later.done()
    later.cancel()


async def test_outage_is_sat_out_no_longer_than_the_class_may_wait() -> None:
    pool = Pool("a")
    pool.misses("a")
    error = await error_of(pool.ask(request(), patience_s=OUTAGE_S / 2), within_s=OUTAGE_S * 0.6)
    assert error.status == 429


async def test_those_who_wait_sit_out_a_short_outage() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    task = pool.ask(request())
    await asyncio.sleep(0)
    pool.misses("a")
    await asyncio.sleep(OUTAGE_S / 2)
    assert not task.done()
    pool.shows("a", IDLE)
    assert (await task).endpoint.name == "a"


async def test_those_who_wait_are_told_that_an_outage_lasts() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    tasks = [pool.ask(request("one")), pool.ask(request("two"))]
    await asyncio.sleep(0)
    pool.misses("a")
    assert {(await error_of(task)).code for task in tasks} == {"no_engine_available"}
    assert len(pool.room) == 0


async def test_half_open_engine_gets_one_request_until_it_answers() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    first, second = pool.ask(request("first", weight=2)), pool.ask(request("second"))
    await asyncio.sleep(0.1)
    for number in range(FAILURES_TO_OPEN):
        pool.fleet.choose("chat", request(f"failing-{number}")).close(Outcome.FAILED, "connection refused")
    pool.shows("a", IDLE)
    await asyncio.sleep(FIRST_OPEN_S / 2)
    assert not first.done()
    lease = await first
    await asyncio.sleep(1)
    assert not second.done()
    lease.on_tokens(1, 0.0)
    assert (await second).endpoint.name == "a"


async def test_those_who_wait_go_on_with_other_engines_and_another_policy() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    tasks = [pool.ask(request("one")), pool.ask(request("two"))]
    await asyncio.sleep(0.1)
    pool.room = ImmediateRoom(RoundRobin())
    pool.use("b")
    assert [(await task).endpoint.name for task in tasks] == ["b", "b"]
    assert pool.fleet.queue("chat") is None


async def test_those_who_wait_for_a_pool_that_is_gone_are_told() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    task = pool.ask(request())
    await asyncio.sleep(0.1)
    pool.fleet.set_targets([])
    assert (await error_of(task)).code == "no_engine_available"
    assert pool.fleet.queue("chat") is None


async def test_pool_that_has_no_engines_for_a_moment_keeps_those_who_wait() -> None:
    pool = Pool("a")
    pool.shows("a", BUSY)
    waited = pool.ask(request("waited"))
    await asyncio.sleep(0.1)
    pool.use()
    arrived = pool.ask(request("arrived"))
    await asyncio.sleep(OUTAGE_S / 2)
    pool.use("b")
    assert [(await task).endpoint.name for task in (waited, arrived)] == ["b", "b"]


async def test_pool_that_stays_without_engines_turns_everybody_away() -> None:
    pool = Pool("a")
    pool.use()
    began_s = asyncio.get_running_loop().time()
    assert (await error_of(pool.ask(request("one")))).code == "no_engine_available"
    assert asyncio.get_running_loop().time() == pytest.approx(began_s + OUTAGE_S, abs=0.2)
    await error_of(pool.ask(request("two")), within_s=0.0)
