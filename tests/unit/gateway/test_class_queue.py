"""A class's patience with a busy engine counts from the request's arrival, through all classes. Simulated time."""

import asyncio

import pytest

from fleet_builders import routing_request
from pool_queue_bench import BUSY, Pool, inference_request, priority_class
from proserve_core.objectives import Overload, OverloadAction, PriorityClass
from proserve_gateway.fleet.class_queue import wait_in_class
from proserve_gateway.fleet.overload_errors import OverloadedError

pytestmark = pytest.mark.looptime

FIRST = priority_class(
    "first", Overload(action=OverloadAction.DEGRADE, degrade_to="second", max_queue_time_s=5.0), ttft_s=60.0
)


@pytest.mark.parametrize(
    ("classes", "most_s", "refused_s"),
    [
        ([priority_class("first", Overload(max_queue_time_s=5.0))], 600.0, 5.0),
        ([FIRST, priority_class("second", Overload(max_queue_time_s=8.0))], 600.0, 8.0),
        ([FIRST, priority_class("second", Overload(max_queue_time_s=2.0))], 600.0, 5.0),
        ([FIRST, priority_class("second", Overload())], 20.0, 20.0),
    ],
    ids=["alone", "longer in the second", "shorter in the second", "as long as any request"],
)
async def test_request_that_began_to_wait_late_is_refused_when_its_time_since_arrival_is_up(
    classes: list[PriorityClass], most_s: float, refused_s: float
) -> None:
    clock = asyncio.get_running_loop().time
    pool = Pool("a")
    pool.shows("a", BUSY)
    request = inference_request(*classes, arrival_s=clock())
    await asyncio.sleep(3.0)
    routing = routing_request(100, arrival_s=request.arrival_s, terms=request.terms)
    queue = pool.fleet.queue("chat")
    assert queue is not None
    with pytest.raises(OverloadedError):
        await wait_in_class(queue, request, routing, clock=clock, most_s=most_s)
    assert clock() - request.arrival_s == pytest.approx(refused_s, abs=0.01)
    assert request.terms.priority_class == classes[-1].name
