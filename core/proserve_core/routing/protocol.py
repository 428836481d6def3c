"""The seam between routing policies and the gateway."""

from typing import Protocol

from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class RoutingPolicy(Protocol):
    """Chooses an engine for one request. Deterministic: the same sequence of calls gives the same decisions.

    Every implementation passes tests/conformance/routing: the decision names an engine of the view, the view is not
    changed, and engines without a snapshot are handled.
    """

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        """Pick one of `fleet.engines`."""
        ...
