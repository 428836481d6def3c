"""Requests for a pool that has no engine because nobody needed one wait here until the first one takes work.

The gateway reports that they wait, and the operator starts an engine (`proserve_core.scaling`). That is so in a cluster
and for pools with `scaling.min: 0`; elsewhere nobody would start one, and a request is told so at once. As in a waiting
room the class says how long: `Queue` at most `maxQueueTime`, the others no longer than a first token can be in time,
since nobody can predict an engine that is not there. Then they go on as any request does.
"""

import asyncio
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import NamedTuple

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


class _Waiting(NamedTuple):
    """One request, ordered by its arrival."""

    arrival_s: float
    number: int
    """Differs from all others', so that nothing after it is compared."""
    request: InferenceRequest
    future: "asyncio.Future[None]"
    """Done when it waits no more."""


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
        self._held: dict[str, dict[int, _Waiting]] = {}
        """By pool and number."""
        self._lines: dict[str, dict[str, list[_Waiting]]] = {}
        """By class and tenant, sorted: who gives way is found without a look at all that wait."""
        self._numbers = count()

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
        for pool in tuple(self._held):
            for waiting in self._all_leave(pool):
                waiting.future.set_exception(error())

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def by_class(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Each pool for which requests wait, and how many of each class."""
        for pool, waiting in self._held.items():
            yield pool, Counter(each.request.terms.priority_class for each in waiting.values())

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
        waiting = _Waiting(request.arrival_s, next(self._numbers), request, asyncio.get_running_loop().create_future())
        self._enter(waiting)
        try:
            self._trim()
            async with asyncio.timeout(longest_s):
                await waiting.future
        except TimeoutError:
            return False
        finally:
            self._leave(waiting)
        return True

    def _trim(self) -> None:
        """Hold no more than the limits. The lightest class gives way, in it the tenant that holds most, of whom the
        latest."""
        while self._shares.full:
            latest = (max(line[-1] for line in tenants.values()) for tenants in self._lines.values())
            weakest = min(latest, key=_worth).request
            name = weakest.terms.priority_class
            gone = self._lines[name][self._shares.gives_way(name, weakest.tenant)][-1]
            self._leave(gone)
            if gone.future.done():
                # Its client left, or its time is up: that its task has not run since is no reason to refuse anybody.
                continue
            self._metrics.refused(gone.request.pool, name, Refusal.ROOM_FULL)
            error = OverloadedError(Refusal.ROOM_FULL, priority_class=name, retry_after_s=RETRY_AFTER_S)
            gone.future.set_exception(error)

    def _enter(self, waiting: _Waiting) -> None:
        name, tenant, size = _share(waiting.request)
        self._held.setdefault(waiting.request.pool, {})[waiting.number] = waiting
        insort(self._lines.setdefault(name, {}).setdefault(tenant, []), waiting)
        self._shares.entered(name, tenant, size)

    def _leave(self, waiting: _Waiting) -> None:
        pool = self._held.get(waiting.request.pool, {})
        if pool.pop(waiting.number, None) is None:
            return
        if not pool:
            del self._held[waiting.request.pool]
        name, tenant, size = _share(waiting.request)
        tenants = self._lines[name]
        line = tenants[tenant]
        del line[bisect_left(line, waiting)]
        if not line:
            del tenants[tenant]
        if not tenants:
            del self._lines[name]
        self._shares.left(name, tenant, size)

    def _release(self, pool: str) -> None:
        for waiting in self._all_leave(pool):
            waiting.future.set_result(None)

    def _all_leave(self, pool: str) -> list[_Waiting]:
        """All that wait for this pool give their places back; returns those that are not gone by themselves."""
        all_of_pool = list(self._held[pool].values())
        for waiting in all_of_pool:
            self._leave(waiting)
        return [waiting for waiting in all_of_pool if not waiting.future.done()]


def _share(request: InferenceRequest) -> tuple[str, str, int]:
    """Class, tenant and bytes, as `RoomShares` counts them."""
    return request.terms.priority_class, request.tenant, request.body.size


def _worth(waiting: _Waiting) -> tuple[float, float]:
    """Who has the least gives way."""
    return waiting.request.terms.weight, -waiting.arrival_s


def _too_slow(pool: str) -> ApiError:
    return no_engine_available(
        f"pool {pool} had no engine, and the first one is not there yet; try again", retry_after_s=RETRY_AFTER_S
    )
