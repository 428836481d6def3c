"""Engines of one pool with a waiting room, and requests that wait there, in simulated time."""

import asyncio
import math

import pytest

from engine_builders import service_terms
from fleet_builders import capacity, prefill_row, routing_request
from proserve_core.capacity import CapacitySnapshot
from proserve_core.objectives import Overload, PriorityClass, ServiceObjectives
from proserve_core.routing import RoutingRequest, WaitingRoom
from proserve_core.routing.late_gain import LateGain
from proserve_gateway.errors import ApiError
from proserve_gateway.fleet.engine import Engine
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.health import MISSES_TO_SUSPECT
from proserve_gateway.fleet.lease import Lease
from proserve_gateway.fleet.room_shares import WaitingLimits
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.requests.body import BodyKind, parse_body
from proserve_gateway.requests.inference_request import InferenceRequest

SECOND = 1000
"""Tokens that take an engine of the tests a second."""
IDLE = capacity()
BUSY = capacity(prefill_row(100 * SECOND, weight=100, due_s=600))
"""Everybody else would be served a hundred seconds later, which is beyond the depth at which requests are bound."""


class Pool:
    """Engines of one pool with a waiting room, on the loop's clock."""

    def __init__(self, *engines: str, room: WaitingRoom | None = None, limits: WaitingLimits | None = None) -> None:
        self.room: WaitingRoom = LateGain() if room is None else room
        self.fleet = Fleet(make_room=lambda _: self.room, clock=asyncio.get_running_loop().time, waiting_limits=limits)
        self.use(*engines)

    def use(self, *engines: str) -> None:
        targets = [EngineTarget(name=name, pool="chat", base_url="http://127.0.0.1:8000") for name in engines]
        # A room of its own is a policy of its own.
        self.fleet.set_targets(targets, {"chat": str(id(self.room))})
        for engine in self.fleet.engines:
            if engine.polled_s is None:
                self.fleet.snapshot_arrived(engine, IDLE)

    def engine(self, name: str) -> Engine:
        return next(engine for engine in self.fleet.engines if engine.target.name == name)

    def shows(self, name: str, snapshot: CapacitySnapshot) -> None:
        self.fleet.snapshot_arrived(self.engine(name), snapshot)

    def misses(self, name: str) -> None:
        """The engine misses so many polls that it gets nothing."""
        for _ in range(MISSES_TO_SUSPECT):
            self.fleet.poll_missed(self.engine(name), "silent")

    def ask(
        self,
        request: RoutingRequest,
        *,
        patience_s: float = 600.0,
        needs_prospect: bool = False,
        body_bytes: int = 0,
    ) -> "asyncio.Task[Lease]":
        queue = self.fleet.queue("chat")
        assert queue is not None
        waiting = queue.lease(request, patience_s=patience_s, needs_prospect=needs_prospect, body_bytes=body_bytes)
        return asyncio.create_task(waiting, name=request.id)


def request(
    name: str = "r", tokens: int = 100, *, weight: float = 1.0, ttft_s: float = 60.0, tenant: str = ""
) -> RoutingRequest:
    now_s = asyncio.get_running_loop().time()
    terms = service_terms(weight, ttft_s=ttft_s)
    return routing_request(tokens, name=name, arrival_s=now_s, terms=terms, tenant=tenant)


async def error_of(task: "asyncio.Task[Lease]", *, within_s: float = math.inf) -> ApiError:
    """What a request that waits is told, at most so much later."""
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(ApiError) as caught:
        await task
    assert asyncio.get_running_loop().time() - began_s <= within_s
    return caught.value


def priority_class(name: str, overload: Overload, *, ttft_s: float = 2.0, weight: int = 1) -> PriorityClass:
    objectives = ServiceObjectives(ttft_s=ttft_s, tpot_s=0.05)
    return PriorityClass(name=name, weight=weight, objectives=objectives, overload=overload)


def inference_request(
    *classes: PriorityClass, arrival_s: float, size: int = 100, tenant: str = "gold"
) -> InferenceRequest:
    """Of the first of these classes, to the pool `chat`."""
    body = parse_body(BodyKind.COMPLETION, b'{"model":"chat","prompt":"hi"}')
    body.size = size
    return InferenceRequest(
        id="r", arrival_s=arrival_s, terms=classes[0].terms(), tenant=tenant, pool="chat", path="/v1/completions",
        body=body, classes={each.name: each for each in classes},
    )  # fmt: skip
