"""Routing policies: which engine gets the next request."""

from proserve_core.routing.protocol import RoutingPolicy
from proserve_core.routing.registry import ROUTERS, make_router
from proserve_core.routing.state import Dispatched, EngineView, FleetView, RouteDecision, RoutingRequest

__all__ = [
    "ROUTERS",
    "Dispatched",
    "EngineView",
    "FleetView",
    "RouteDecision",
    "RoutingPolicy",
    "RoutingRequest",
    "make_router",
]
