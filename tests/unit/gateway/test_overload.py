"""Overload as a client meets it: what its class says, the status, when to try again, and what is counted."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fake_openai_engine import FakeEngine, fake_engine
from fleet_builders import capacity, prefill_row
from gateway_builders import FREE_KEY, Gateway, gateway
from proserve_core.capacity import CapacitySnapshot
from proserve_core.objectives import Overload, OverloadAction, TenantLimits
from proserve_core.routing.late_gain import LateGain
from proserve_gateway.fleet.room_shares import WaitingLimits

IDLE = capacity()
BUSY = capacity(prefill_row(100_000, weight=100, due_s=600))
SHORT_S = 0.05


@asynccontextmanager
async def busy_gateway(
    overload: Overload | None = None,
    tenant_limits: TenantLimits | None = None,
) -> AsyncIterator[tuple[Gateway, FakeEngine]]:
    """One engine that has enough to do."""
    async with (
        fake_engine() as engine,
        gateway(engine, room=LateGain(), overload=overload, tenant_limits=tenant_limits) as gate,
    ):
        show(gate, BUSY)
        yield gate, engine


def show(gate: Gateway, snapshot: CapacitySnapshot) -> None:
    (engine,) = gate.fleet.engines
    gate.fleet.snapshot_arrived(engine, snapshot)


async def until_waiting(gate: Gateway, count: int) -> None:
    async with asyncio.timeout(60):
        while gate.fleet.waiting != count:  # noqa: ASYNC110 - what is awaited is seen from outside
            await asyncio.sleep(0.002)


async def test_request_that_waited_as_long_as_its_class_lets_it_is_told_when_to_come_back() -> None:
    async with busy_gateway(Overload(max_queue_time_s=SHORT_S)) as (gate, engine):
        answer = await gate.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert not engine.requests
        assert gate.sample("wait_refusals_total", pool="tiny", cls="high", cause="queue_time") == 1
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="shed") > 0
        assert gate.sample("requests_waiting", pool="tiny", cls="high") == 0


async def test_request_to_a_pool_that_sleeps_is_answered_by_the_first_engine_that_comes() -> None:
    async with fake_engine() as engine, gateway() as gate:
        gate.fleet.first_engines.use(["tiny"])
        asked = asyncio.create_task(gate.chat())
        await until_waiting(gate, 1)
        assert gate.sample("requests_waiting", pool="tiny", cls="high") == 1
        gate.fleet.set_targets([engine.target()])
        assert gate.fleet.waiting == 1
        show(gate, IDLE)
        assert (await asked).status_code == 200
        assert len(engine.requests) == 1


async def test_class_that_sheds_does_not_keep_a_request_that_is_of_no_use_any_more() -> None:
    async with busy_gateway(Overload(action=OverloadAction.SHED)) as (gate, _):
        answer = await gate.chat(max_tokens=1)
        assert answer.status_code == 429
        assert gate.sample("wait_refusals_total", pool="tiny", cls="high", cause="no_gain") == 1


async def test_degraded_request_is_served_as_the_other_class_and_accounted_in_its_own() -> None:
    # Long beside what the first request of a process takes before it waits.
    overload = Overload(action=OverloadAction.DEGRADE, max_queue_time_s=10 * SHORT_S, degrade_to="low")
    async with busy_gateway(overload) as (gate, engine):
        asked = asyncio.create_task(gate.chat())
        await until_waiting(gate, 1)
        seen_s = time.monotonic()
        async with asyncio.timeout(60):
            while not gate.sample("degraded_requests_total", pool="tiny", cls="high", to="low"):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        waited_s = time.monotonic() - seen_s
        show(gate, IDLE)
        answer = await asked
        assert (answer.status_code, answer.headers["x-proserve-class"]) == (200, "low")
        assert engine.requests[0].body["vllm_xargs"]["proserve_class"] == "low"
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="200") == 1
        (record,) = gate.decisions.latest(1)
        (attempt,) = record.attempts
        assert (record.priority_class, attempt.served_as) == ("high", "low")
        # As both classes.
        assert attempt.waited_s >= waited_s


async def test_client_that_leaves_while_it_waits_is_gone() -> None:
    async with busy_gateway() as (gate, engine):
        asked = asyncio.create_task(gate.chat())
        await until_waiting(gate, 1)
        asked.cancel()
        await until_waiting(gate, 0)
        assert not engine.requests


async def test_client_that_leaves_while_it_waits_pays_for_no_tokens() -> None:
    async with busy_gateway(tenant_limits=TenantLimits(max_in_flight=2, tokens_per_minute=1000)) as (gate, _):
        asked = asyncio.create_task(gate.chat())
        await until_waiting(gate, 1)
        assert gate.sample("quota_used", tenant="gold", quota="tokens") > 0
        asked.cancel()
        async with asyncio.timeout(60):
            while gate.sample("quota_used", tenant="gold", quota="in_flight"):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert gate.sample("quota_used", tenant="gold", quota="tokens") == 0


async def test_waiting_requests_are_seen_and_served_heavier_ones_first() -> None:
    async with busy_gateway() as (gate, engine):
        # None is late on a busy machine: a heavy one that is may be worth less than a light one that is not.
        patient = {"x-proserve-ttft-ms": "60000", "x-proserve-tpot-ms": "60000"}
        second_of_prefill = [{"role": "user", "content": "x" * 4000}]
        light = asyncio.create_task(gate.chat(key=FREE_KEY, headers=patient, user="light", messages=second_of_prefill))
        await until_waiting(gate, 1)
        heavy = asyncio.create_task(gate.chat(headers=patient, user="heavy", messages=second_of_prefill))
        await until_waiting(gate, 2)
        assert gate.sample("requests_waiting", pool="tiny", cls="low") == 1
        await asyncio.sleep(SHORT_S)
        show(gate, IDLE)
        assert (await heavy).status_code == 200
        show(gate, IDLE)
        assert (await light).status_code == 200
        assert [request.body["user"] for request in engine.requests] == ["heavy", "light"]
        assert gate.sample("wait_seconds_count", pool="tiny", cls="high") == 1


async def test_flood_of_one_tenant_takes_no_place_from_another_of_its_class() -> None:
    """Two requests with long prompts wait; short ones of another tenant fill the room."""
    async with (
        fake_engine() as engine,
        gateway(engine, anonymous=True, room=LateGain(), waiting_limits=WaitingLimits(requests=4)) as gate,
    ):
        show(gate, BUSY)
        long_prompt = [{"role": "user", "content": "x" * 8000}]
        modest = [asyncio.create_task(gate.chat(key=FREE_KEY, messages=long_prompt)) for _ in range(2)]
        await until_waiting(gate, 2)
        flood = [asyncio.create_task(gate.chat(key=None)) for _ in range(12)]
        async with asyncio.timeout(60):
            while sum(task.done() for task in flood) < 10:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert not any(task.done() for task in modest)
        assert {(await task).json()["error"]["code"] for task in flood if task.done()} == {"overloaded"}
        assert gate.sample("wait_refusals_total", pool="tiny", cls="low", cause="room_full") == 10
        for task in [*modest, *flood]:
            task.cancel()
