"""`power-of-two`: of two engines drawn at random the one with fewer requests.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 2001); default of many service
meshes. Several gateways with stale knowledge don't all run to the same engine. Drawn from the request's id (`draws`).
"""

from proserve_core.routing.draws import draw
from proserve_core.routing.least_requests import request_count
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class PowerOfTwo:
    """Two engines drawn, the emptier one chosen."""

    def __init__(self, *, seed: int = 0) -> None:
        """Args:
        seed: another one gives other draws.
        """
        self._seed = seed

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        engines = sorted(fleet.engines, key=lambda view: view.name)
        first = draw(self._seed, request.id, 0) % len(engines)
        drawn = [engines[first]]
        if len(engines) > 1:
            # Among the others, so that two different ones are drawn.
            apart = 1 + draw(self._seed, request.id, 1) % (len(engines) - 1)
            drawn.append(engines[(first + apart) % len(engines)])
        return RouteDecision(
            engine=min(drawn, key=request_count).name,
            reason="fewer requests of two drawn",
            candidates=tuple([view.name for view in drawn]),
        )
