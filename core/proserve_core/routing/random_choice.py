"""`random`: any engine with the same chance. The baseline that costs nothing and knows nothing.

Drawn from the request's id (`draws`), so that a run can be repeated.
"""

from proserve_core.routing.draws import draw
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class RandomChoice:
    """One engine, drawn."""

    def __init__(self, *, seed: int = 0) -> None:
        """Args:
        seed: another one gives other draws.
        """
        self._seed = seed

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        names = sorted([view.name for view in fleet.engines])
        return RouteDecision(
            engine=names[draw(self._seed, request.id, 0) % len(names)], reason="drawn", candidates=tuple(names)
        )
