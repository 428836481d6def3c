"""`min-ahead`: the engine where the request's first token is expected first, counting only what would run before it.

Source: the study behind `late-gain` (docs/routing.md), where it is the cheapest good rule. `min-load` counts all queued
prefills; in overload most of them are late or worth less per second than the newcomer, and a policy that ranks by gain
serves the newcomer first. Engines with room come first; a decode load of 1 counts like 0.1 s, which decides between
engines that are equally near.
"""

from proserve_core.routing.fleet_outlook import LOAD, FleetOutlook, meet_one
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
        meeting = meet_one(outlook, request, worth_of(request), fleet.now_s)
        finish_s = fleet.now_s + meeting.ahead_s + meeting.needs.ready_s
        full = outlook.without_room(request.prompt_tokens)
        (best,) = outlook.least(finish_s + LOAD_S * outlook.table[LOAD] + NO_ROOM_S * full, 1)
        return RouteDecision(
            engine=outlook.names[best],
            reason="earliest first token: no engine has room" if full[best] else "earliest first token",
            expected_ttft_s=float(finish_s[best]) - request.arrival_s,
            candidates=tuple(outlook.names),
        )
