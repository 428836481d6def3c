"""Routing policies: which engine gets the next request."""

from proserve_core.routing.protocol import RoutingPolicy
from proserve_core.routing.registry import LATE_ROUTERS, ROUTERS, make_room, make_router
from proserve_core.routing.state import Dispatched, EngineView, FleetView, RouteDecision, RoutingRequest
from proserve_core.routing.waiting_room import Binding, ImmediateRoom, WaitingRoom

__all__ = [
    "LATE_ROUTERS",
    "ROUTERS",
    "Binding",
    "Dispatched",
    "EngineView",
    "FleetView",
    "ImmediateRoom",
    "RouteDecision",
    "RoutingPolicy",
    "RoutingRequest",
    "WaitingRoom",
    "make_room",
    "make_router",
]
