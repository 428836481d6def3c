"""Requests for a pool that sleeps wait for its first engine, as long as their class lets them. Simulated time."""

import asyncio
from typing import Any

import pytest

import pool_queue_bench
from fleet_builders import capacity, routing_request
from pool_queue_bench import inference_request, priority_class
from proserve_core.objectives import Overload, OverloadAction, PriorityClass
from proserve_core.routing import ImmediateRoom, RoutingRequest
from proserve_core.routing.round_robin import RoundRobin
from proserve_gateway.errors import ApiError, internal_error
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.overload_errors import OverloadedError
from proserve_gateway.fleet.room_shares import WaitingLimits
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.requests.inference_request import InferenceRequest

pytestmark = pytest.mark.looptime

MOST_S = 600.0


class Sleeping:
    """A fleet whose pool `chat` has no engine at first."""

    def __init__(self, *, limits: WaitingLimits | None = None) -> None:
        self.clock = asyncio.get_running_loop().time
        room = ImmediateRoom(RoundRobin())
        self.fleet = Fleet(make_room=lambda _: room, clock=self.clock, waiting_limits=limits)
        self.fleet.first_engines.use(["chat"])

    def ask(
        self, *classes: PriorityClass, size: int = 100, tenant: str = "gold", pool: str = "chat"
    ) -> "asyncio.Task[RoutingRequest]":
        """Of the first of these classes."""
        request = inference_request(*classes, arrival_s=self.clock(), size=size, tenant=tenant)
        request.pool = pool
        waiting = self.fleet.first_engines.wait(request, routing_request(1, terms=request.terms), most_s=MOST_S)
        return asyncio.create_task(waiting)

    def engine_comes(self) -> None:
        self.fleet.set_targets([EngineTarget(name="a", pool="chat", base_url="http://127.0.0.1:8000")])
        (engine,) = self.fleet.engines
        self.fleet.snapshot_arrived(engine, capacity())


QUEUE = priority_class("patient", Overload())


async def error_of(task: "asyncio.Task[RoutingRequest]") -> ApiError:
    with pytest.raises(ApiError) as caught:
        await task
    return caught.value


async def test_request_waits_for_the_first_engine_and_is_reported_meanwhile() -> None:
    sleeping = Sleeping()
    task = sleeping.ask(QUEUE)
    await asyncio.sleep(120)
    assert not task.done()
    assert sleeping.fleet.open_requests() == {"chat": 1}
    assert dict(sleeping.fleet.waiting_by_class()) == {"chat": {"patient": 1}}
    assert sleeping.fleet.waiting == 1
    sleeping.engine_comes()
    assert (await task).terms.priority_class == "patient"
    assert sleeping.fleet.open_requests() == {}


async def test_engine_that_is_there_is_not_waited_for() -> None:
    sleeping = Sleeping()
    sleeping.engine_comes()
    began_s = sleeping.clock()
    await sleeping.ask(QUEUE)
    assert sleeping.clock() == began_s


async def test_pool_that_never_sleeps_is_not_waited_for() -> None:
    sleeping = Sleeping()
    sleeping.fleet.first_engines.use([])
    began_s = sleeping.clock()
    await sleeping.ask(QUEUE)
    assert sleeping.clock() == began_s


@pytest.mark.parametrize(
    ("overload", "longest_s"),
    [
        (Overload(), MOST_S),
        (Overload(max_queue_time_s=30.0), 30.0),
        (Overload(action=OverloadAction.SHED), 2.0),
    ],
)
async def test_class_says_how_long_a_request_waits(overload: Overload, longest_s: float) -> None:
    sleeping = Sleeping()
    began_s = sleeping.clock()
    error = await error_of(sleeping.ask(priority_class("any", overload)))
    assert sleeping.clock() - began_s == pytest.approx(longest_s)
    assert (error.status, error.code) == (503, "no_engine_available")
    assert error.retry_after_s
    assert sleeping.fleet.waiting == 0


async def test_request_that_degrades_waits_on_in_the_other_class() -> None:
    sleeping = Sleeping()
    degrade = Overload(action=OverloadAction.DEGRADE, degrade_to="patient", max_queue_time_s=1.0)
    task = sleeping.ask(priority_class("first", degrade), QUEUE)
    await asyncio.sleep(10)
    assert dict(sleeping.fleet.waiting_by_class()) == {"chat": {"patient": 1}}
    sleeping.engine_comes()
    assert (await task).terms.priority_class == "patient"


async def test_no_more_wait_than_the_gateway_holds() -> None:
    sleeping = Sleeping(limits=WaitingLimits(requests=2, body_bytes=1000))
    waiting = [sleeping.ask(QUEUE), sleeping.ask(QUEUE)]
    await asyncio.sleep(1)
    assert isinstance(await error_of(sleeping.ask(QUEUE)), OverloadedError)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert isinstance(await error_of(sleeping.ask(QUEUE, size=5000)), OverloadedError)
    sleeping.engine_comes()
    await waiting[1]
    assert sleeping.fleet.waiting == 0


async def test_heavier_class_takes_the_place_of_a_lighter_one() -> None:
    sleeping = Sleeping(limits=WaitingLimits(requests=2))
    light, later = sleeping.ask(QUEUE), sleeping.ask(QUEUE)
    await asyncio.sleep(1)
    heavy = sleeping.ask(priority_class("heavy", Overload(), weight=4))
    assert isinstance(await error_of(later), OverloadedError)
    assert dict(sleeping.fleet.waiting_by_class()) == {"chat": {"patient": 1, "heavy": 1}}
    sleeping.engine_comes()
    assert [(await task).terms.priority_class for task in (light, heavy)] == ["patient", "heavy"]


async def test_flood_of_one_tenant_pushes_out_nobody_else() -> None:
    sleeping = Sleeping(limits=WaitingLimits(requests=4))
    flood = [sleeping.ask(QUEUE, tenant="flood") for _ in range(4)]
    await asyncio.sleep(1)
    others = [sleeping.ask(QUEUE, tenant=name) for name in ("a", "b")]
    assert all([isinstance(await error_of(task), OverloadedError) for task in flood[2:]])
    more = sleeping.ask(QUEUE, tenant="flood")
    assert isinstance(await error_of(more), OverloadedError)
    sleeping.engine_comes()
    assert len(await asyncio.gather(*flood[:2], *others)) == 4


async def test_who_goes_on_in_this_moment_takes_nobodys_place() -> None:
    sleeping = Sleeping(limits=WaitingLimits(requests=2))
    sleeping.fleet.first_engines.use(["chat", "other"])
    released = [sleeping.ask(QUEUE), sleeping.ask(QUEUE)]
    await asyncio.sleep(1)
    heavy = priority_class("heavy", Overload(), weight=4)
    # Its task runs before those of who is released.
    waits = sleeping.ask(heavy, pool="other")
    sleeping.engine_comes()
    await asyncio.gather(*released)
    await asyncio.sleep(1)
    assert dict(sleeping.fleet.waiting_by_class())["other"] == {"heavy": 1}
    sleeping.fleet.first_engines.use([])
    await waits


async def test_client_that_leaves_in_this_moment_is_who_gives_way() -> None:
    sleeping = Sleeping(limits=WaitingLimits(requests=2))
    stays, leaves = sleeping.ask(QUEUE), sleeping.ask(QUEUE)
    await asyncio.sleep(1)
    heavy = sleeping.ask(priority_class("heavy", Overload(), weight=4))
    leaves.cancel()
    await asyncio.wait({leaves})
    await asyncio.sleep(1)
    assert dict(sleeping.fleet.waiting_by_class()) == {"chat": {"patient": 1, "heavy": 1}}
    sleeping.engine_comes()
    await asyncio.gather(stays, heavy)


class LookedAt(InferenceRequest):
    """Counts how often anybody asks for the class of such a request."""

    looks = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "terms":
            LookedAt.looks += 1
        return super().__getattribute__(name)


async def test_refusal_in_a_full_room_looks_at_few_of_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_queue_bench, "InferenceRequest", LookedAt)
    sleeping = Sleeping(limits=WaitingLimits(requests=400))
    waiting = [sleeping.ask(QUEUE, tenant=f"t{number % 4}") for number in range(400)]
    await asyncio.sleep(1)
    LookedAt.looks = 0
    assert isinstance(await error_of(sleeping.ask(QUEUE, tenant="t0")), OverloadedError)
    assert 0 < LookedAt.looks < 40
    sleeping.engine_comes()
    await asyncio.gather(*waiting)


async def test_client_that_leaves_is_forgotten() -> None:
    sleeping = Sleeping()
    task = sleeping.ask(QUEUE)
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait({task})
    assert sleeping.fleet.open_requests() == {}
    assert dict(sleeping.fleet.waiting_by_class()) == {}


async def test_client_that_leaves_makes_room_for_another_body() -> None:
    sleeping = Sleeping(limits=WaitingLimits(body_bytes=1000))
    leaves = sleeping.ask(QUEUE, size=900)
    await asyncio.sleep(1)
    leaves.cancel()
    await asyncio.wait({leaves})
    stays = sleeping.ask(QUEUE, size=900)
    await asyncio.sleep(1)
    assert sleeping.fleet.waiting == 1
    sleeping.engine_comes()
    await stays


async def test_who_waits_is_told_when_the_gateway_ends() -> None:
    sleeping = Sleeping()
    task = sleeping.ask(QUEUE)
    await asyncio.sleep(1)
    sleeping.fleet.turn_away(lambda: internal_error("it ends"))
    assert "it ends" in str((await error_of(task)).message)


async def test_who_waits_goes_on_when_the_pool_may_not_sleep_any_more() -> None:
    sleeping = Sleeping()
    task = sleeping.ask(QUEUE)
    await asyncio.sleep(1)
    sleeping.fleet.first_engines.use([])
    await task
    assert sleeping.fleet.waiting == 0
