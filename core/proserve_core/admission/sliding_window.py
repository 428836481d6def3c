"""How much of a limit per minute is used, from two counters: the sliding window counter.

Source: Cloudflare, "How we built rate limiting capable of scaling to millions of domains" (2017); also a strategy of
the library `limits`. Minutes are counted apart; the one before counts by the part of it that the last 60 seconds still
cover. A fixed window would let twice the limit through around its edge, a log of all requests would grow with them.
"""

import math

import msgspec

WINDOW_S = 60.0


class WindowUse(msgspec.Struct, frozen=True, gc=False):
    """Use of a limit as of one moment."""

    before: float
    """Counted in the minute before."""
    current: float
    """Counted in the running minute."""
    passed: float
    """Part of the running minute that has passed."""

    @property
    def used(self) -> float:
        """Of the last 60 seconds."""
        return max(0.0, self.before * (1 - self.passed) + self.current)

    def wait_s(self, amount: float, limit: float) -> float:
        """How long until `amount` more fits under `limit` if nobody else takes any; `inf` if it never will."""
        if amount > limit:
            return math.inf
        room = limit - amount
        if self.used <= room:
            return 0.0
        if self.current <= room:
            return WINDOW_S * max(0.0, 1 - (room - self.current) / self.before - self.passed)
        return WINDOW_S * (1 - self.passed + 1 - room / self.current)

    @property
    def reset_s(self) -> float:
        """How long until nothing of this counts any more."""
        left_s = WINDOW_S * (1 - self.passed)
        if self.current > 0:
            return left_s + WINDOW_S
        return left_s if self.before > 0 else 0.0


def minute_of(wall_s: float) -> tuple[int, float]:
    """Number of the minute, and the part of it that has passed. Replicas that share counters need clocks that agree to
    about a second."""
    number, passed_s = divmod(wall_s, WINDOW_S)
    return int(number), passed_s / WINDOW_S
