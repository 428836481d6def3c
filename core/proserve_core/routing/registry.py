"""Routing policies by name, as in an EnginePool and on the command line."""

from collections.abc import Callable, Iterable

from proserve_core.admission.headroom import HeadroomBook
from proserve_core.objectives import PriorityClass
from proserve_core.routing.go_full import GoFull
from proserve_core.routing.go_routing import GoRouting
from proserve_core.routing.late_gain import LateGain
from proserve_core.routing.least_requests import LeastRequests
from proserve_core.routing.llumnix import Llumnix
from proserve_core.routing.min_ahead import MinAhead
from proserve_core.routing.min_load import MinLoad
from proserve_core.routing.power_of_two import PowerOfTwo
from proserve_core.routing.prefix_affinity import PrefixAffinity
from proserve_core.routing.protocol import RoutingPolicy
from proserve_core.routing.random_choice import RandomChoice
from proserve_core.routing.round_robin import RoundRobin
from proserve_core.routing.slo_aware import SloAware
from proserve_core.routing.static_partition import StaticPartition
from proserve_core.routing.waiting_room import ImmediateRoom, WaitingRoom

ROUTERS: dict[str, Callable[[], RoutingPolicy]] = {
    "go-full": GoFull,
    "go-routing": GoRouting,
    "least-requests": LeastRequests,
    "llumnix": Llumnix,
    "min-ahead": MinAhead,
    "min-load": MinLoad,
    "power-of-two": PowerOfTwo,
    "prefix-affinity": PrefixAffinity,
    "random": RandomChoice,
    "round-robin": RoundRobin,
    "slo-aware": SloAware,
    "static-partition": StaticPartition,
}

COUNTERS_OF_REQUESTS = frozenset({"least-requests", "power-of-two", "random", "round-robin", "static-partition"})
"""Those that do not look into engines, so that it is nothing to them which prompts an engine holds."""

LATE_ROUTERS: dict[str, Callable[[HeadroomBook], WaitingRoom]] = {"late-gain": LateGain}
"""Those that hold requests back until an engine has room."""


def make_router(name: str) -> RoutingPolicy:
    """A fresh policy with its default parameters; policies keep state, so use one per pool.

    Raises:
        ValueError: no policy has this name; the message lists those that exist.
    """
    if name not in ROUTERS:
        raise ValueError(f"routing policy {name!r} does not exist; known: {', '.join(sorted(ROUTERS))}")
    return ROUTERS[name]()


def make_room(name: str, classes: Iterable[PriorityClass] = ()) -> WaitingRoom:
    """A fresh waiting room for any policy: one that binds at once for those of `ROUTERS`. The headroom of `classes` is
    kept where requests wait.

    Raises:
        ValueError: no policy has this name; the message lists those that exist.
    """
    if name in LATE_ROUTERS:
        return LATE_ROUTERS[name](HeadroomBook(classes))
    if name not in ROUTERS:
        known = ", ".join(sorted([*ROUTERS, *LATE_ROUTERS]))
        raise ValueError(f"routing policy {name!r} does not exist; known: {known}")
    return ImmediateRoom(make_router(name), reads_prefixes=name not in COUNTERS_OF_REQUESTS)
