"""`min-ahead`: the engine where the request's first token is expected first, counting only what would run before it.

Source: the study behind `late-gain` (docs/routing.md), where it is the cheapest good rule. `min-load` counts all queued
prefills; in overload most of them are late or worth less per second than the newcomer, and a policy that ranks by gain
serves the newcomer first. Engines with room come first; a decode load of 1 counts like 0.1 s, which decides between
engines that are equally near.
"""

import numpy as np

from proserve_core.routing.fleet_outlook import FleetOutlook
from proserve_core.routing.request_worth import worth_of
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest

LOAD_S = 0.1
"""What a decode load of 1 counts like, in seconds until the first token."""
NO_ROOM_S = 1e15
"""Puts engines without room behind all others."""


class MinAhead:
    """Earliest first token."""

    def __init__(self) -> None:
        self._outlook = FleetOutlook()

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        outlook = self._outlook
        outlook.refresh(fleet)
        needs = outlook.demand(request, worth_of(request), fleet.now_s, request.cached_tokens)
        finish_s = fleet.now_s + outlook.ahead_s(needs, fleet.now_s) + needs.ready_s
        loads = np.array([engine.load for engine in outlook.engines])
        full = outlook.without_room(request.prompt_tokens)
        (best,) = outlook.least(finish_s + LOAD_S * loads + NO_ROOM_S * full, 1)
        return RouteDecision(
            engine=outlook.engines[best].name,
            reason="earliest first token: no engine has room" if full[best] else "earliest first token",
            expected_ttft_s=float(finish_s[best]) - request.arrival_s,
            candidates=tuple([engine.name for engine in outlook.engines]),
        )
