"""`round-robin`: engines in turn, by name. The baseline that looks at nothing.

The turn is kept by name, so it goes on sensibly when engines come and go.
"""

from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class RoundRobin:
    """Next engine by name after the last chosen one."""

    def __init__(self) -> None:
        self._last = ""

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:  # noqa: ARG002 (looks at nothing)
        names = [view.name for view in fleet.engines]
        self._last = min((name for name in names if name > self._last), default=None) or min(names)
        return RouteDecision(engine=self._last, reason="next in turn", candidates=tuple(names))
