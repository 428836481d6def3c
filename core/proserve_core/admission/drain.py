"""When a queue that is too long for a request will have drained: what Retry-After says.

A class's requests leave the queue at the rate at which they were given to engines lately, whatever decides about that:
how many engines there are, how fast they are, and who goes first. So the forecast needs none of it.
"""

import math

MEMORY_S = 10.0
"""Departures of about this long ago count: some TTFTs, so that a forecast follows a burst and not single requests."""
SHORTEST_S = 1.0
LONGEST_S = 600.0
"""A client that is told more would better be told so by people."""


class DrainForecast:
    """Knows how fast the requests of each class leave a queue. Times on one clock."""

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._departures: dict[str, tuple[float, float]] = {}
        """By class: departures, each counting less the longer ago it was, and when that was reckoned."""

    def left(self, priority_class: str, now_s: float) -> None:
        """A request of the class was given to an engine."""
        self._departures[priority_class] = (self._count(priority_class, now_s) + 1.0, now_s)

    def drain_s(self, priority_class: str, waiting: int, now_s: float) -> float:
        """How long until `waiting` requests of the class are gone, in whole seconds.

        One more departure than was seen is taken to be due: a class that got nothing so far is not without hope.
        """
        window_s = min(max(now_s - self._began_s, SHORTEST_S), MEMORY_S)
        rate = (self._count(priority_class, now_s) + 1.0) / window_s
        return min(max(float(math.ceil(waiting / rate)), SHORTEST_S), LONGEST_S)

    def _count(self, priority_class: str, now_s: float) -> float:
        count, at_s = self._departures.get(priority_class, (0.0, now_s))
        return count * math.exp((at_s - now_s) / MEMORY_S)
