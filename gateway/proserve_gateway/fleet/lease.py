"""One request's place at an engine, from the choice to its end."""

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from proserve_core.routing import Dispatched, RouteDecision
from proserve_gateway.upstream.exchange import FailureKind

if TYPE_CHECKING:
    from proserve_gateway.fleet.engine import Engine
    from proserve_gateway.fleet.fleet import Fleet


class Outcome(StrEnum):
    """How a request ended at its engine."""

    ANSWERED = "answered"
    """The engine did its part, a refusal of the request itself (4xx) included."""
    FAILED = "failed"
    """Connection refused or broken, time-out, server error."""
    DOUBTFUL = "doubtful"
    """It answered with an error of its own, which may be the request's fault: see `Lease.blame`."""
    CANCELLED = "cancelled"
    """Ended by us or by the client; says nothing about the engine."""


class Watched(Protocol):
    """An exchange with an engine, as far as the fleet is concerned."""

    def give_up_if_silent(self, kind: FailureKind, why: str) -> None:
        """The engine hangs."""


class Lease:
    """The first close counts."""

    __slots__ = ("_dispatched", "_engine", "_fleet", "_open", "decision", "endpoint", "exchange", "request")

    def __init__(self, *, fleet: "Fleet", engine: "Engine", dispatched: Dispatched, decision: RouteDecision) -> None:
        self._fleet = fleet
        self._engine = engine
        self._dispatched = dispatched
        self._open = True
        self.endpoint = engine.endpoint
        self.decision = decision
        self.request = dispatched.request
        """As it was given to the engine: its class may be another one than it came in."""
        self.exchange: Watched | None = None

    def watch(self, exchange: Watched) -> None:
        """Give this exchange up when the engine hangs and it is silent."""
        self.exchange = exchange

    def on_tokens(self, count: int, at_s: float) -> None:
        """The engine emitted `count` tokens of the request."""
        engine, dispatched = self._engine, self._dispatched
        if not dispatched.emitted_tokens:
            engine.view.revision += 1
            if not engine.health.circuit_closed:
                engine.health.request_answered()
                self._fleet.invalidate(engine.target.pool)
        if engine.watch is not None:
            engine.watched(engine.watch, dispatched, count, at_s)
        dispatched.emitted_tokens += count
        engine.worked_s = at_s

    def worked(self, at_s: float) -> None:
        """The engine did what the request asks for, whether or not that brings tokens."""
        self._engine.worked_s = at_s

    def close(self, outcome: Outcome, error: str = "") -> None:
        """The request ended there; `error` says why it failed."""
        if not self._open:
            return
        self._open = False
        self._fleet.release(self, self._engine, self._dispatched, outcome, error)

    def blame(self, error: str) -> None:
        """The request ended doubtfully there, and another engine could serve it."""
        self._fleet.blame(self._engine, error)
