"""Requests for a pool that has no engine because nobody needed one wait here until the first one takes work.

The gateway reports that they wait, and the operator starts an engine (`proserve_core.scaling`). That is so in a cluster
and for pools with `scaling.min: 0`; elsewhere nobody would start one, and a request is told so at once. As in a waiting
room the class says how long: `Queue` at most `maxQueueTime`, the others no longer than a first token can be in time,
since nobody can predict an engine that is not there. Then they go on as any request does.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from proserve_core.admission.overload import Refusal, degraded_to, needs_prospect, patience_s
from proserve_core.gain import deadline_s
from proserve_core.objectives import Overload
from proserve_core.routing import RoutingRequest
from proserve_gateway.errors import ApiError, no_engine_available
from proserve_gateway.fleet.overload_errors import OverloadedError
from proserve_gateway.fleet.queue_metrics import QueueMetrics
from proserve_gateway.fleet.room_shares import RoomShares, WaitingLimits
from proserve_gateway.requests.inference_request import InferenceRequest

RETRY_AFTER_S = 10.0
"""What a client is told whose request waited in vain: an engine is on its way."""


class FirstEngines:
    """Who waits for the first engine of a pool."""

    def __init__(
        self,
        *,
        usable: Callable[[str], int],
        clock: Callable[[], float],
        metrics: QueueMetrics,
        limits: WaitingLimits,
    ) -> None:
        """`usable(pool)` are the engines that take work now."""
        self._usable = usable
        self._clock = clock
        self._metrics = metrics
        self._shares = RoomShares(limits)
        self.pools: frozenset[str] = frozenset()
        """Those that may have none."""
        self._held: dict[str, dict[asyncio.Future[None], InferenceRequest]] = {}

    def use(self, pools: Iterable[str]) -> None:
        """These pools may have none from now on; who waits for another one goes on as its requests do."""
        self.pools = frozenset(pools)
        for pool in self._held.keys() - self.pools:
            self._release(pool)

    def changed(self, pool: str) -> None:
        """An engine of the pool may take work."""
        if pool in self._held and self._usable(pool):
            self._release(pool)

    def turn_away(self, error: Callable[[], ApiError]) -> None:
        """No first engine is waited for any more."""
        for waiting in self._held.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(error())

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def by_class(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Each pool for which requests wait, and how many of each class."""
        for pool, waiting in self._held.items():
            yield pool, Counter(request.terms.priority_class for request in waiting.values())

    async def wait(self, request: InferenceRequest, routing: RoutingRequest, *, most_s: float) -> RoutingRequest:
        """Return when its pool has an engine, at once if it has one or can't be without; the request may go on in
        another class by then. `most_s` is the longest that any request may take.

        Raises:
            OverloadedError: more wait than the gateway holds.
            ApiError: 503, no engine came in time, or what `turn_away` was told.
        """
        served_as: set[str] = set()
        while request.pool in self.pools and not self._usable(request.pool):
            name = routing.terms.priority_class
            served_as.add(name)
            overload = request.classes[name].overload if name in request.classes else Overload()
            if await self._hold(request, self._patience_s(request, overload, most_s)):
                break
            self._metrics.refused(request.pool, name, Refusal.QUEUE_TIME)
            to = degraded_to(overload, Refusal.QUEUE_TIME, served_as)
            if to is None:
                raise _too_slow(request.pool)
            self._metrics.degraded(request.pool, name, to)
            request.terms = request.classes[to].terms()
            routing = msgspec.structs.replace(routing, terms=request.terms)
        return routing

    def _patience_s(self, request: InferenceRequest, overload: Overload, most_s: float) -> float:
        now_s = self._clock()
        longest_s = patience_s(overload, age_s=now_s - request.arrival_s, most_s=most_s)
        if not needs_prospect(overload):
            return longest_s
        return min(longest_s, max(0.0, deadline_s(terms=request.terms, arrival_s=request.arrival_s, token=1) - now_s))

    async def _hold(self, request: InferenceRequest, longest_s: float) -> bool:
        """Whether it may go on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.setdefault(request.pool, {})[future] = request
        self._shares.entered(*_share(request))
        try:
            self._trim()
            async with asyncio.timeout(longest_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._leave(future, request)
        return True

    def _trim(self) -> None:
        """Hold no more than the limits. The lightest class gives way, in it the tenant that holds most, of whom the
        latest."""
        while self._shares.full:
            # Those that are done leave as soon as their tasks run; whoever came last is not.
            held = [entry for waiting in self._held.values() for entry in waiting.items() if not entry[0].done()]
            held.reverse()
            _, weakest = min(held, key=_worth)
            name = weakest.terms.priority_class
            tenant = self._shares.gives_way(name, weakest.tenant)
            of_tenant = (entry for entry in held if (entry[1].terms.priority_class, entry[1].tenant) == (name, tenant))
            future, gone = min(of_tenant, key=_worth)
            self._leave(future, gone)
            self._metrics.refused(gone.pool, name, Refusal.ROOM_FULL)
            future.set_exception(OverloadedError(Refusal.ROOM_FULL, priority_class=name, retry_after_s=RETRY_AFTER_S))

    def _leave(self, future: asyncio.Future[None], request: InferenceRequest) -> None:
        waiting = self._held.get(request.pool, {})
        if waiting.pop(future, None) is None:
            return
        self._shares.left(*_share(request))
        if not waiting:
            del self._held[request.pool]

    def _release(self, pool: str) -> None:
        for future in self._held[pool]:
            if not future.done():
                future.set_result(None)


def _share(request: InferenceRequest) -> tuple[str, str, int]:
    """Class, tenant and bytes, as `RoomShares` counts them."""
    return request.terms.priority_class, request.tenant, request.body.size


def _worth(entry: tuple[asyncio.Future[None], InferenceRequest]) -> tuple[float, float]:
    """Who has the least gives way."""
    _, request = entry
    return request.terms.weight, -request.arrival_s


def _too_slow(pool: str) -> ApiError:
    return no_engine_available(
        f"pool {pool} had no engine, and the first one is not there yet; try again", retry_after_s=RETRY_AFTER_S
    )
