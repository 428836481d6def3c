"""Who is refused when too many wait for an engine, or too many bytes. Simulated time."""

import asyncio

import pytest

from pool_queue_bench import BUSY, SECOND, Pool, error_of, request
from proserve_gateway.fleet.lease import Lease
from proserve_gateway.fleet.room_shares import WaitingLimits

pytestmark = pytest.mark.looptime


async def refused(tasks: "list[asyncio.Task[Lease]]") -> int:
    """How many were refused because the room was full."""
    errors = [await error_of(task) for task in tasks if task.done()]
    assert all("room_full" in error.message and error.status == 429 for error in errors)
    return len(errors)


async def test_full_room_refuses_those_who_bring_least() -> None:
    pool = Pool("a", limits=WaitingLimits(requests=3))
    pool.shows("a", BUSY)
    light = [pool.ask(request(f"light-{number}")) for number in range(3)]
    await asyncio.sleep(0.1)
    heavy = [pool.ask(request(f"heavy-{number}", weight=4)) for number in range(2)]
    await asyncio.sleep(0.1)
    assert pool.fleet.waiting == 3
    assert [task.done() for task in heavy] == [False, False]
    assert await refused(light) == 2
    for task in [*light, *heavy]:
        task.cancel()


async def test_full_room_refuses_the_tenant_of_a_class_that_holds_most() -> None:
    pool = Pool("a", limits=WaitingLimits(requests=6))
    pool.shows("a", BUSY)
    modest = [pool.ask(request(f"modest-{number}", 2 * SECOND, tenant="modest")) for number in range(2)]
    flood = [pool.ask(request(f"flood-{number}", tenant="flood")) for number in range(20)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in modest)
    assert await refused(flood) == 16
    for task in [*modest, *flood]:
        task.cancel()


async def test_full_room_keeps_the_best_of_the_tenant_that_gives_way() -> None:
    pool = Pool("a", limits=WaitingLimits(requests=3))
    pool.shows("a", BUSY)
    modest = pool.ask(request("modest", 5 * SECOND, tenant="modest"))
    flood = [pool.ask(request(f"{tokens}", tokens, tenant="flood")) for tokens in (300, 100, 400, 200)]
    await asyncio.sleep(0.1)
    assert [task.get_name() for task in flood if not task.done()] == ["100", "200"]
    assert await refused(flood) == 2
    for task in [modest, *flood]:
        task.cancel()


async def test_request_too_late_for_any_gain_keeps_its_place_beside_a_flood_of_its_class() -> None:
    pool = Pool("a", limits=WaitingLimits(requests=4))
    pool.shows("a", BUSY)
    late = pool.ask(request("late", SECOND, ttft_s=0.1, tenant="modest"))
    await asyncio.sleep(30)
    flood = [pool.ask(request(f"flood-{number}", tenant="flood")) for number in range(8)]
    await asyncio.sleep(0.1)
    assert not late.done()
    assert await refused(flood) == 5
    for task in [late, *flood]:
        task.cancel()


async def test_tenant_with_large_bodies_gives_way_when_bodies_fill_the_room() -> None:
    pool = Pool("a", limits=WaitingLimits(requests=100, body_bytes=10_000))
    pool.shows("a", BUSY)
    small = [pool.ask(request(f"small-{number}", SECOND, tenant="small"), body_bytes=100) for number in range(20)]
    large = [pool.ask(request(f"large-{number}", tenant="large"), body_bytes=3000) for number in range(5)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in small)
    assert await refused(large) == 3
    for task in [*small, *large]:
        task.cancel()


async def test_bodies_of_those_who_wait_are_bounded() -> None:
    pool = Pool("a", limits=WaitingLimits(body_bytes=1000))
    pool.shows("a", BUSY)
    tasks = [pool.ask(request(f"r{number}"), body_bytes=300) for number in range(10)]
    await asyncio.sleep(0.1)
    assert pool.fleet.waiting == 3
    for task in tasks:
        task.cancel()
