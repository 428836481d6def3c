"""Requests of one pool that wait at the gateway until its waiting room binds them to an engine (docs/routing.md).

The room decides and has no clock; this drives it. It is asked at once when somebody arrives and nobody else waits, and
while anybody waits again at each snapshot, at each request that ended, and `tick_s` after the last time. Asking takes
at most a share of the event loop's time (`ASKING_SHARE`): a long queue is then ranked less often, instead of delaying
the streams. With nobody waiting there is no timer.

Whoever waits ends in one of four ways: with a lease; with `OverloadedError` when its class does not let it wait any
longer or more wait than `WaitingLimits` allows; with another error when the gateway gives up (shutdown, its pool is
gone, no engine for `OUTAGE_S`, a fault); or by leaving. After so long without any engine nobody new is let in.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from proserve_core.admission.drain import DrainForecast
from proserve_core.admission.overload import Refusal
from proserve_core.routing import Binding, EngineView, FleetView, RoutingRequest, WaitingRoom
from proserve_gateway.errors import ApiError, internal_error
from proserve_gateway.fleet.lease import Lease, Outcome
from proserve_gateway.fleet.overload_errors import OverloadedError
from proserve_gateway.fleet.queue_metrics import QueueMetrics
from proserve_gateway.fleet.room_shares import RoomShares, WaitingLimits

logger = logging.getLogger(__name__)

ASKING_SHARE = 0.1
"""Most of the event loop's time that goes into asking the room, while nobody new arrives at an empty room."""
OUTAGE_S = 10.0
"""How long it is sat out that no engine takes work: longer than a missed poll, a circuit that opens or the moment
between an old engine and its successor, shorter than an engine's start."""
OUTAGE_TICK_S = 0.1
"""How often it is looked for an engine then: a circuit's time may be up."""


class _Ticket:
    """One request that waits."""

    __slots__ = ("body_bytes", "future", "needs_prospect", "request", "since_s", "timer")

    def __init__(
        self,
        request: RoutingRequest,
        future: "asyncio.Future[Lease]",
        *,
        since_s: float,
        body_bytes: int,
        needs_prospect: bool,
    ) -> None:
        self.request = request
        self.future = future
        self.since_s = since_s
        self.body_bytes = body_bytes
        self.needs_prospect = needs_prospect
        """It waits only for as long as it can be expected to bring gain."""
        self.timer: asyncio.TimerHandle | None = None

    def settle(self, end: Lease | ApiError) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if isinstance(end, ApiError):
            if not self.future.cancelled():
                self.future.set_exception(end)
        elif self.future.cancelled():
            # Its client left in this turn of the event loop.
            end.close(Outcome.CANCELLED)
        else:
            self.future.set_result(end)


class PoolQueue:
    """Drives the room of one pool."""

    def __init__(
        self,
        room: WaitingRoom,
        *,
        views: Callable[[], Sequence[EngineView]],
        grant: Callable[[Binding], Lease],
        stale: Callable[[], bool],
        no_engine: Callable[[], ApiError],
        clock: Callable[[], float],
        pool: str,
        limits: WaitingLimits,
        metrics: QueueMetrics,
    ) -> None:
        """`views()` are the engines that may take work now, `grant` enters a binding in the view of its engine,
        `stale()` tells whether that changed what `views()` gives, `no_engine()` says that they are none."""
        self.room = room
        self._views = views
        self._grant = grant
        self._stale = stale
        self._no_engine = no_engine
        self._clock = clock
        self._pool = pool
        self._metrics = metrics
        self._tickets: dict[str, _Ticket] = {}
        self._shares = RoomShares(limits)
        """Of the tenants that wait."""
        self._with_prospect = 0
        """How many of them need one."""
        self._by_class: Counter[str] = Counter()
        self._drain = DrainForecast(clock())
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        """When it rings."""
        self._asked_s = self._took_s = 0.0
        """When the room was last asked, and how long it took."""
        self._outage_s: float | None = None
        """Since when no engine takes work, as far as anybody who waited knows."""

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._tickets)

    @property
    def by_class(self) -> Mapping[str, int]:
        """Requests that wait, for every class that ever waited."""
        return self._by_class

    async def lease(
        self, request: RoutingRequest, *, patience_s: float, needs_prospect: bool = False, body_bytes: int = 0
    ) -> Lease:
        """Wait for an engine; cancel the caller when the client leaves.

        Args:
            request: what waits.
            patience_s: how long it may.
            needs_prospect: it may wait only for as long as it can be expected to bring gain.
            body_bytes: what it keeps in memory.

        Raises:
            OverloadedError: it may not wait any longer.
            ApiError: 503 after `OUTAGE_S` without any engine, or what `turn_away` was told.
        """
        if self._outage_lasts(self._views(), self._clock()):
            raise self._no_engine()
        loop = asyncio.get_running_loop()
        ticket = _Ticket(
            request,
            loop.create_future(),
            since_s=self._clock(),
            body_bytes=body_bytes,
            needs_prospect=needs_prospect,
        )
        self._enter(ticket)
        try:
            self._trim()
            if len(self._tickets) == 1:
                self._ask()
            else:
                self.changed()
            if not ticket.future.done():
                ticket.timer = loop.call_later(patience_s, self._refuse, request.id, Refusal.QUEUE_TIME)
            return await ticket.future
        except BaseException:
            self._leave(ticket)
            raise

    def degraded(self, priority_class: str, to: str) -> None:
        """A request that could not wait any longer goes on in another class."""
        self._metrics.degraded(self._pool, priority_class, to)

    def changed(self) -> None:
        """Something that the room should know: a snapshot, a request that ended, an engine that came or went."""
        if self._outage_s is not None and self._views():
            self._outage_s = None
        if self._tickets:
            self._ask_at(self._asked_s + self._took_s / ASKING_SHARE)

    def use(self, room: WaitingRoom) -> None:
        """The pool has this room; if it is another one, because of another policy, whoever waits goes there."""
        if room is self.room:
            self.changed()
            return
        self.room = room
        for ticket in self._tickets.values():
            room.arrived(ticket.request)
        self.changed()

    def turn_away(self, error: Callable[[], ApiError]) -> None:
        """Nobody who waits will get an engine here."""
        for request_id in list(self._tickets):
            self._end(request_id, error())

    def _ask(self) -> None:
        self._asked_s = began_s = self._clock()
        engines = self._views()
        if self._outage_lasts(engines, began_s):
            self.turn_away(self._no_engine)
            return
        while engines:
            asked, engines = engines, ()
            for binding in self.room.bind(FleetView(now_s=began_s, engines=asked)):
                self._bound(binding, began_s)
                if self._stale():
                    # That was all that the engine may get for now, such as the one request of a half-open circuit.
                    engines = self._views()
                    break
        if self._with_prospect:
            self._refuse_hopeless()
        self._took_s = self._clock() - began_s
        if self._tickets:
            tick_s = (self.room.tick_s if self._outage_s is None else None) or OUTAGE_TICK_S
            self._ask_at(began_s + max(tick_s, self._took_s / ASKING_SHARE))

    def _outage_lasts(self, engines: Sequence[EngineView], now_s: float) -> bool:
        """Whether there has been no engine for too long to wait for one."""
        if engines:
            self._outage_s = None
        elif self._outage_s is None:
            self._outage_s = now_s
        return self._outage_s is not None and now_s - self._outage_s >= OUTAGE_S

    def _ask_at(self, at_s: float) -> None:
        if self._timer is not None:
            if self._timer_s <= at_s:
                return
            self._timer.cancel()
        self._timer_s = at_s
        delay_s = max(0.0, at_s - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._rang)

    def _rang(self) -> None:
        self._timer = None
        if not self._tickets:
            return
        try:
            self._ask()
        except Exception:
            logger.exception("%d waiting requests are given up: a fault of the gateway", len(self._tickets))
            self.turn_away(_fault)

    def _bound(self, binding: Binding, now_s: float) -> None:
        ticket = self._exit(binding.request.id)
        priority_class = binding.request.terms.priority_class
        self._drain.left(priority_class, now_s)
        self._metrics.waited(self._pool, priority_class, now_s - ticket.since_s)
        try:
            lease = self._grant(binding)
        except Exception:
            # It is not among those who wait any more, so nobody else would tell it.
            ticket.settle(_fault())
            raise
        ticket.settle(lease)

    def _refuse_hopeless(self) -> None:
        for request_id in self.room.hopeless():
            ticket = self._tickets.get(request_id)
            if ticket is not None and ticket.needs_prospect:
                self._refuse(request_id, Refusal.NO_GAIN)

    def _trim(self) -> None:
        """Hold no more than the limits. Who brings least goes, or another of its class whose tenant holds more."""
        while self._shares.full:
            now_s = self._clock()
            request = self._tickets[self.room.weakest(now_s)].request
            name = request.terms.priority_class
            tenant = self._shares.gives_way(name, request.tenant)
            gone = request.id if tenant == request.tenant else self.room.weakest(now_s, (name, tenant))
            self._refuse(gone, Refusal.ROOM_FULL)

    def _refuse(self, request_id: str, cause: Refusal) -> None:
        priority_class = self._tickets[request_id].request.terms.priority_class
        drain_s = self._drain.drain_s(priority_class, self._by_class[priority_class], self._clock())
        self._metrics.refused(self._pool, priority_class, cause)
        self._end(request_id, OverloadedError(cause, priority_class=priority_class, retry_after_s=drain_s))

    def _end(self, request_id: str, error: ApiError) -> None:
        self.room.left(request_id)
        self._exit(request_id).settle(error)

    def _enter(self, ticket: _Ticket) -> None:
        self._tickets[ticket.request.id] = ticket
        self._by_class[ticket.request.terms.priority_class] += 1
        self._shares.entered(ticket.request.terms.priority_class, ticket.request.tenant, ticket.body_bytes)
        self._with_prospect += ticket.needs_prospect
        self.room.arrived(ticket.request)

    def _exit(self, request_id: str) -> _Ticket:
        ticket = self._tickets.pop(request_id)
        self._by_class[ticket.request.terms.priority_class] -= 1
        self._shares.left(ticket.request.terms.priority_class, ticket.request.tenant, ticket.body_bytes)
        self._with_prospect -= ticket.needs_prospect
        return ticket

    def _leave(self, ticket: _Ticket) -> None:
        """Its caller does not wait any more, or was told why it waited in vain."""
        if ticket.request.id in self._tickets:
            self.room.left(ticket.request.id)
            self._exit(ticket.request.id)
        if ticket.timer is not None:
            ticket.timer.cancel()
        future = ticket.future
        if future.done() and not future.cancelled() and future.exception() is None:
            # Its client left in the turn of the event loop in which it was bound.
            future.result().close(Outcome.CANCELLED)


def _fault() -> ApiError:
    return internal_error("the gateway made a mistake with the requests that wait")
