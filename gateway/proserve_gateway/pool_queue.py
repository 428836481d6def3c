"""Requests of one pool that wait at the gateway until its waiting room binds them to an engine (docs/routing.md).

The room decides and has no clock; this drives it. It is asked at once when somebody arrives and nobody else waits, and
while anybody waits again at each snapshot, at each request that ended, and `tick_s` after the last time. Asking takes
at most a share of the event loop's time (`ASKING_SHARE`): a long queue is then ranked less often, instead of delaying
the streams. With nobody waiting there is no timer.

Whoever waits ends in one of four ways: with a lease, with an explicit error when its time is up, with one when the
gateway gives up (shutdown, its pool is gone, no engine for `OUTAGE_S`, a fault), or by leaving. Without any engine
nobody new is let in.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from proserve_core.routing import Binding, EngineView, FleetView, RoutingRequest, WaitingRoom
from proserve_gateway.errors import ApiError, engine_failure, internal_error
from proserve_gateway.lease import Lease, Outcome

logger = logging.getLogger(__name__)

ASKING_SHARE = 0.1
"""Most of the event loop's time that goes into asking the room, while nobody new arrives at an empty room."""
OUTAGE_S = 10.0
"""How long those who wait sit out that no engine takes work: longer than a missed poll or a circuit that opens, shorter
than an engine's start."""
OUTAGE_TICK_S = 0.1
"""How often it is looked for an engine then: a circuit's time may be up."""


class _Ticket:
    """One request that waits."""

    __slots__ = ("future", "request", "timer")

    def __init__(self, request: RoutingRequest, future: "asyncio.Future[Lease]") -> None:
        self.request = request
        self.future = future
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
    ) -> None:
        """`views()` are the engines that may take work now, `grant` enters a binding in the view of its engine,
        `stale()` tells whether that changed what `views()` gives, `no_engine()` says that they are none."""
        self.room = room
        self._views = views
        self._grant = grant
        self._stale = stale
        self._no_engine = no_engine
        self._clock = clock
        self._tickets: dict[str, _Ticket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        """When it rings."""
        self._asked_s = self._took_s = 0.0
        """When the room was last asked, and how long it took."""
        self._outage_s: float | None = None
        """Since when no engine takes work, as far as those who wait know."""

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._tickets)

    async def lease(self, request: RoutingRequest, *, patience_s: float) -> Lease:
        """Wait for an engine; cancel the caller when the client leaves.

        Raises:
            ApiError: 503 without any engine, 504 when `patience_s` are over, or what `turn_away` was told.
        """
        if not self._views():
            raise self._no_engine()
        loop = asyncio.get_running_loop()
        ticket = self._tickets[request.id] = _Ticket(request, loop.create_future())
        self.room.arrived(request)
        try:
            if len(self._tickets) == 1:
                self._ask()
            else:
                self.changed()
            if not ticket.future.done():
                ticket.timer = loop.call_later(patience_s, self._time_is_up, request.id, patience_s)
            return await ticket.future
        except BaseException:
            self._leave(ticket)
            raise

    def changed(self) -> None:
        """Something that the room should know: a snapshot, a request that ended, an engine that came or went."""
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
        if not engines and self._sit_out(began_s):
            return
        if engines:
            self._outage_s = None
        while engines:
            asked, engines = engines, ()
            for binding in self.room.bind(FleetView(now_s=began_s, engines=asked)):
                self._tickets.pop(binding.request.id).settle(self._grant(binding))
                if self._stale():
                    # That was all that the engine may get for now, such as the one request of a half-open circuit.
                    engines = self._views()
                    break
        self._took_s = self._clock() - began_s
        if self._tickets:
            tick_s = (self.room.tick_s if self._outage_s is None else None) or OUTAGE_TICK_S
            self._ask_at(began_s + max(tick_s, self._took_s / ASKING_SHARE))

    def _sit_out(self, now_s: float) -> bool:
        """No engine takes work; whether it has been so for too long, and everybody was told."""
        if self._outage_s is None:
            self._outage_s = now_s
        if now_s - self._outage_s < OUTAGE_S:
            return False
        self._outage_s = None
        self.turn_away(self._no_engine)
        return True

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
            self.turn_away(lambda: internal_error("the gateway made a mistake with the requests that wait"))

    def _time_is_up(self, request_id: str, patience_s: float) -> None:
        self._end(
            request_id,
            engine_failure(
                f"no engine had room for the request within {patience_s:.3g} s",
                status=504,
                code="request_total_timeout",
            ),
        )

    def _end(self, request_id: str, error: ApiError) -> None:
        self.room.left(request_id)
        self._tickets.pop(request_id).settle(error)

    def _leave(self, ticket: _Ticket) -> None:
        """Its caller does not wait any more, or was told why it waited in vain."""
        if self._tickets.pop(ticket.request.id, None) is not None:
            self.room.left(ticket.request.id)
        if ticket.timer is not None:
            ticket.timer.cancel()
        future = ticket.future
        if future.done() and not future.cancelled() and future.exception() is None:
            # Its client left in the turn of the event loop in which it was bound.
            future.result().close(Outcome.CANCELLED)
