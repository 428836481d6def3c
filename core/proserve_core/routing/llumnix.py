"""`llumnix`: the engine with the most free blocks per request.

Source: Llumnix (OSDI 2024), dispatch load of its code: `-(free blocks - blocks of all waiting) / (running + waiting)`,
an idle engine before all others. Memory and count in one number, no time: a long prompt weighs by its blocks. Left out:
migration of running requests, which no engine here can do, and the headroom around priority requests, which needs it.
Free blocks are the published ones less those of prefills queued and requests sent since.
"""

from math import inf

from proserve_core.routing.estimate import FleetEstimator
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class Llumnix:
    """Most free blocks per request."""

    def __init__(self) -> None:
        self._estimator = FleetEstimator()

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        now_s = fleet.now_s
        loads = []
        for view, engine in zip(fleet.engines, self._estimator.estimates(fleet), strict=True):
            requests = view.requests()
            loads.append((-engine.free_blocks / requests if requests else -inf, view.name, engine))
        _, name, engine = min(loads, key=lambda item: item[:2])
        return RouteDecision(
            engine=name,
            reason="most free blocks per request",
            expected_ttft_s=engine.begin_s(now_s) + engine.cost_s(request) - request.arrival_s,
            candidates=tuple([name for _, name, _ in loads]),
        )
