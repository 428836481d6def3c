"""Whatever happens to a pool, everybody who waits there gets an engine or an answer."""

import asyncio
import contextlib
import random

import looptime
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_queue_bench import BUSY, IDLE, SECOND, Pool, request
from proserve_core.routing import ImmediateRoom, RoutingRequest
from proserve_core.routing.late_gain import LateGain
from proserve_core.routing.round_robin import RoundRobin
from proserve_gateway.errors import ApiError
from proserve_gateway.fleet.lease import Lease, Outcome
from proserve_gateway.fleet.pool_queue import OUTAGE_S


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_happens_everybody_gets_an_engine_or_an_answer(seed: int) -> None:
    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        runner.run(_random_life(random.Random(seed)))


async def _random_life(draw: random.Random) -> None:
    pool = Pool("a", "b")
    tasks: list[asyncio.Task[None]] = []
    open_leases: list[Lease] = []

    async def served(request: RoutingRequest) -> None:
        queue = pool.fleet.queue("chat")
        if queue is None:
            lease = pool.fleet.choose("chat", request)
        else:
            lease = await queue.lease(request, patience_s=draw.choice([0.1, 1.0, 3.0]))
        open_leases.append(lease)

    async def one(request: RoutingRequest) -> None:
        with contextlib.suppress(ApiError):
            await served(request)

    for number in range(60):
        match draw.randrange(9):
            case 0 | 1 | 2 | 3:
                asked = request(
                    f"r{number}",
                    draw.randrange(1, 3 * SECOND),
                    weight=draw.choice([1, 4]),
                    ttft_s=draw.choice([0.1, 5]),
                )
                tasks.append(asyncio.create_task(one(asked)))
            case 4 if tasks:
                draw.choice(tasks).cancel()
            case 5 if open_leases:
                lease = open_leases.pop(draw.randrange(len(open_leases)))
                lease.close(draw.choice(list(Outcome)), "an engine's failure")
            case 6 if pool.fleet.engines:
                pool.fleet.poll_missed(draw.choice(list(pool.fleet.engines)), "silent")
            case 7:
                pool.room = draw.choice([pool.room, LateGain(), ImmediateRoom(RoundRobin())])
                pool.use(*draw.sample(["a", "b", "c"], draw.choice([0, 1, 2, 3])))
            case 8 if pool.fleet.engines:
                pool.shows(draw.choice(list(pool.fleet.engines)).target.name, draw.choice([IDLE, BUSY]))
        await asyncio.sleep(draw.choice([0.0, 0.0, 0.01, 0.3]))
    await asyncio.sleep(OUTAGE_S + 5)
    assert all(task.done() for task in tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
    assert pool.fleet.waiting == 0
    assert len(pool.room) == 0
    for lease in open_leases:
        lease.close(Outcome.ANSWERED)
    assert not any(engine.view.dispatched or engine.leases for engine in pool.fleet.engines)
