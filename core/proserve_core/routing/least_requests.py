"""`least-requests`: the engine with the fewest requests, running and waiting.

Source: `least_conn` of nginx and `LEAST_REQUEST` of Envoy, with what the engine says of other gateways' requests
included. All requests count alike, however long. Ties go to the name.
"""

from proserve_core.routing.state import EngineView, FleetView, RouteDecision, RoutingRequest


def request_count(view: EngineView) -> tuple[int, str]:
    """Sorts engines by requests, then by name."""
    return view.requests(), view.name


class LeastRequests:
    """Fewest requests."""

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:  # noqa: ARG002 (looks at engines only)
        return RouteDecision(
            engine=min(fleet.engines, key=request_count).name,
            reason="fewest requests",
            candidates=tuple([view.name for view in fleet.engines]),
        )
