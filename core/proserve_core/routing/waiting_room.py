"""The seam between whoever holds requests and whoever decides when and where each one goes.

A waiting room takes every request that was admitted and hands it out again, bound to an engine: at once, as a routing
policy does (`ImmediateRoom`), or when an engine has room for it (`late_gain`). Gateway and simulator drive it alike:
tell it of arrivals and of requests that left unserved, and ask it to bind whenever a request arrived, an engine's
snapshot changed, or `tick_s` has passed with requests waiting. It has no clock and starts nothing by itself. A request
that had its turn and whose engine failed does not wait again: it is placed.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from proserve_core.admission.headroom import HeadroomBook
from proserve_core.routing.prefix_map import PrefixMap
from proserve_core.routing.protocol import RoutingPolicy
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest

UNKNOWN_KV_TOKENS = 100_000
"""KV cache of an engine that does not tell: a small one, so that few hits are predicted that are not there."""


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """A request that goes to an engine now."""

    request: RoutingRequest
    decision: RouteDecision
    cached_tokens: int
    """Leading prompt tokens that the engine is predicted to hold."""


class WaitingRoom(Protocol):
    """Every implementation passes tests/conformance/routing: each request is bound once, to an engine of the view."""

    tick_s: float | None
    """Ask again at least this often while requests wait; None: nothing waits once `bind` has been asked."""

    @property
    def reads_prefixes(self) -> bool:
        """Whether it matters to it how a prompt begins (`RoutingRequest.prefix_blocks`)."""
        ...

    @property
    def headroom(self) -> HeadroomBook | None:
        """Who holds and uses shares of engine time; None: nothing is held where nobody waits."""
        ...

    def __len__(self) -> int:
        """Requests that wait."""
        ...

    def arrived(self, request: RoutingRequest) -> None:
        """A request was admitted; its id is new."""
        ...

    def left(self, request_id: str) -> bool:
        """A request does not want an engine any more; False: it is not here."""
        ...

    def bind(self, fleet: FleetView) -> Iterator[Binding]:
        """Requests that go to an engine now, one by one.

        Enter each in its engine's `dispatched` before asking for the next: what follows depends on it.
        """
        ...

    def hopeless(self) -> Sequence[str]:
        """Ids of those who wait and can't be expected to bring gain when their turn comes, as of the last `bind`."""
        ...

    def weakest(self, now_s: float, of: tuple[str, str] | None = None) -> str:
        """Id of the one who brings least, of all or of a class and tenant, one of which must wait."""
        ...

    def place(self, request: RoutingRequest, fleet: FleetView) -> Binding:
        """Bind a request that is not in the room at once, ahead of everybody and whether or not an engine has room."""
        ...


class ImmediateRoom:
    """Binds each request when it arrives, by a routing policy."""

    tick_s: float | None = None
    headroom: HeadroomBook | None = None

    def __init__(self, policy: RoutingPolicy, *, reads_prefixes: bool = True) -> None:
        self.reads_prefixes = reads_prefixes
        self._policy = policy
        self._waiting: dict[str, RoutingRequest] = {}
        self._prefixes = PrefixMap()

    def __len__(self) -> int:
        return len(self._waiting)

    def arrived(self, request: RoutingRequest) -> None:
        self._waiting[request.id] = request

    def left(self, request_id: str) -> bool:
        return self._waiting.pop(request_id, None) is not None

    def bind(self, fleet: FleetView) -> Iterator[Binding]:
        while self._waiting:
            yield self.place(self._waiting.pop(next(iter(self._waiting))), fleet)

    def hopeless(self) -> Sequence[str]:
        return ()

    def weakest(self, now_s: float, of: tuple[str, str] | None = None) -> str:  # noqa: ARG002
        waiting = reversed(self._waiting.items())
        return next(name for name, each in waiting if of in (None, (each.terms.priority_class, each.tenant)))

    def place(self, request: RoutingRequest, fleet: FleetView) -> Binding:
        if request.prefix_blocks:
            hits = self._prefixes.cached_tokens(request.prefix_blocks, request.prompt_tokens)
            request = msgspec.structs.replace(request, cached_tokens=hits)
        decision = self._policy.choose(request, fleet)
        if request.prefix_blocks:
            remember_prefix(self._prefixes, request, decision.engine, fleet)
        return Binding(request=request, decision=decision, cached_tokens=request.cached_tokens.get(decision.engine, 0))


def remember_prefix(prefixes: PrefixMap, request: RoutingRequest, engine: str, fleet: FleetView) -> None:
    """The request's prompt goes to an engine of the fleet, which will hold it."""
    snapshot = next(view.snapshot for view in fleet.engines if view.name == engine)
    kv_tokens = UNKNOWN_KV_TOKENS if snapshot is None else snapshot.blocks * snapshot.block_size
    prefixes.sent(engine, request.prefix_blocks, kv_tokens)
    # An engine may be left out for a while and come back with its cache, so only many of them are forgotten.
    if prefixes.engines > 2 * len(fleet.engines):
        prefixes.keep([view.name for view in fleet.engines])
