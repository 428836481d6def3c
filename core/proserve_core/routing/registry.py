"""Routing policies by name, as in an EnginePool and on the command line."""

from collections.abc import Callable

from proserve_core.routing.go_routing import GoRouting
from proserve_core.routing.min_load import MinLoad
from proserve_core.routing.protocol import RoutingPolicy
from proserve_core.routing.round_robin import RoundRobin

ROUTERS: dict[str, Callable[[], RoutingPolicy]] = {
    "go-routing": GoRouting,
    "min-load": MinLoad,
    "round-robin": RoundRobin,
}


def make_router(name: str) -> RoutingPolicy:
    """A fresh policy with its default parameters; policies keep state, so use one per pool.

    Raises:
        ValueError: no policy has this name; the message lists those that exist.
    """
    if name not in ROUTERS:
        raise ValueError(f"routing policy {name!r} does not exist; known: {', '.join(sorted(ROUTERS))}")
    return ROUTERS[name]()
