"""Connections that keep an HTTP server waiting: for the head of a request or its body, or idle between two."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

C = TypeVar("C")


class WaitingConnections(Generic[C]):
    """Those of one server. Late ones are found by a sweep: a timer for each request would be a measurable share of its
    cost."""

    __slots__ = ("_bodies_s", "_clock", "_heads_s", "_idle_s")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heads_s: dict[C, float] = {}
        """Since the connection or the head began; longest first."""
        self._bodies_s: dict[C, float] = {}
        """Since the head was complete, or the answer to who has not sent all of it; longest first."""
        self._idle_s: dict[C, float] = {}
        """Since the last answer ended; longest first."""

    def awaits_head(self, connection: C) -> None:
        """It was opened, or a head has begun, or something that is not even one."""
        self._idle_s.pop(connection, None)
        if connection not in self._heads_s:
            self._heads_s[connection] = self._clock()

    def awaits_body(self, connection: C) -> None:
        """Nothing can be done before there is more of the body, to be read or to be thrown away."""
        self._bodies_s.setdefault(connection, self._clock())

    def idle(self, connection: C) -> None:
        """The answer is complete and the connection is kept."""
        self._bodies_s.pop(connection, None)
        self._idle_s[connection] = self._clock()

    def busy(self, connection: C) -> None:
        """A request is being answered, or the connection is gone."""
        self._bodies_s.pop(connection, None)
        self._heads_s.pop(connection, None)
        self._idle_s.pop(connection, None)

    def is_idle(self, connection: C) -> bool:
        """Whether it is between two requests."""
        return connection in self._idle_s

    def late_heads(self, most_s: float) -> list[C]:
        """Whose head has taken `most_s` or longer."""
        return _late(self._heads_s, self._clock() - most_s)

    def late_idle(self, most_s: float) -> list[C]:
        """Who has been idle for `most_s` or longer."""
        return _late(self._idle_s, self._clock() - most_s)

    def longest(self) -> C:
        """The one that has kept us waiting longest: under attack an attacker's, never one whose request is all here."""
        # Heads last: with a clock of milliseconds the one just opened may be as old as the oldest of the others.
        oldest = [next(iter(kind.items())) for kind in (self._idle_s, self._bodies_s, self._heads_s) if kind]
        return min(oldest, key=lambda item: item[1])[0]


def _late(waiting: Mapping[C, float], latest_s: float) -> list[C]:
    late = []
    for connection, since_s in waiting.items():
        if since_s > latest_s:
            break
        late.append(connection)
    return late
