"""Whether one engine may get new work: a state machine over poll results and request outcomes.

Two signals, kept apart because they fail apart: polls say that the process answers (ROUTING, section 2: an engine that
misses polls is suspected) and that it computes, requests say that it serves. Consecutive failed requests open a
circuit; when its time is up one request at a time probes the engine (half-open), and the time doubles with every failed
probe.
Pure: the time is an argument, on any monotonic clock.
"""

from enum import StrEnum

MISSES_TO_SUSPECT = 2
"""One lost poll is noise; two in a row mean that what we know is stale."""
MISSES_TO_LOSE = 3
"""Then its requests are looked after: a process that hangs neither answers nor closes its connections."""
FAILURES_TO_OPEN = 3
FIRST_OPEN_S = 1.0
LONGEST_OPEN_S = 30.0


class EngineState(StrEnum):
    """Why an engine gets or does not get new work. Closed list, used as a metric label."""

    STARTING = "starting"
    """Has not answered yet."""
    READY = "ready"
    DRAINING = "draining"
    SUSPECTED = "suspected"
    """Missed its polls, or computes nothing."""
    CIRCUIT_OPEN = "circuit_open"
    """Requests failed in a row."""
    HALF_OPEN = "half_open"
    """The circuit's time is up: the next request probes the engine."""


class EngineHealth:
    """Health of one engine."""

    __slots__ = ("_answered", "_draining", "_failures", "_misses", "_open_s", "_open_until_s", "_probing", "stuck")

    def __init__(self) -> None:
        self._answered = False
        self._draining = False
        self._misses = 0
        self._failures = 0
        self._open_s = FIRST_OPEN_S
        self._open_until_s: float | None = None
        self._probing = False
        self.stuck = False
        """It answers its polls, but computes nothing (`progress`)."""

    def poll_answered(self, *, draining: bool) -> None:
        self._answered = True
        self._draining = draining
        self._misses = 0

    def poll_missed(self) -> None:
        self._misses += 1

    @property
    def trusted(self) -> bool:
        """Whether the last polls were answered."""
        return self._answered and self._misses < MISSES_TO_SUSPECT

    @property
    def lost(self) -> bool:
        """Whether so many polls were missed that open requests may wait in vain."""
        return self._misses >= MISSES_TO_LOSE

    def request_sent(self) -> None:
        """A request was given to the engine; in half-open state it is the probe."""
        if self._open_until_s is not None:
            self._probing = True

    def request_answered(self) -> None:
        """The engine did its part: closes the circuit."""
        self._failures = 0
        self._open_s = FIRST_OPEN_S
        self._open_until_s = None
        self._probing = False

    def request_abandoned(self) -> None:
        """The client left before the engine showed anything: says nothing about the engine, frees the probe."""
        self._probing = False

    def request_failed(self, now_s: float) -> None:
        """The engine refused the connection, broke off or answered with a server error."""
        self._failures += 1
        if self._probing:
            self._open_s = min(2 * self._open_s, LONGEST_OPEN_S)
        elif self._failures < FAILURES_TO_OPEN or self._open_until_s is not None:
            return
        self._open_until_s = now_s + self._open_s
        self._probing = False

    @property
    def circuit_closed(self) -> bool:
        return self._open_until_s is None

    def reopens_s(self, now_s: float) -> float:
        """When an open circuit becomes half-open by itself; infinity when that is not ahead."""
        if self._open_until_s is None or now_s >= self._open_until_s:
            return float("inf")
        return self._open_until_s

    def state(self, now_s: float) -> EngineState:
        if not self._answered:
            return EngineState.STARTING
        if self.stuck or self._misses >= MISSES_TO_SUSPECT:
            return EngineState.SUSPECTED
        if self._draining:
            return EngineState.DRAINING
        if self._open_until_s is None:
            return EngineState.READY
        if now_s < self._open_until_s:
            return EngineState.CIRCUIT_OPEN
        return EngineState.HALF_OPEN

    def takes_work(self, now_s: float) -> bool:
        state = self.state(now_s)
        return state is EngineState.READY or (state is EngineState.HALF_OPEN and not self._probing)
