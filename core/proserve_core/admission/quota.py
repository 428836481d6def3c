"""What a tenant has used of its quotas, and whether one more request fits.

A request reserves what it will probably take (one request, its estimated tokens, one place in flight) before anything
is decided, so that two replicas that decide at the same time see each other; what is refused is given back. When it
ends, the reservation is settled with the real usage: too much goes back to the minute it was taken from as long as that
still counts, too little is charged to the running minute, even beyond the limit.

While the shared store can't be asked, each replica holds the tenant to an equal part of its limits.
"""

from enum import StrEnum

import msgspec

from proserve_core.admission.presence import Presence
from proserve_core.admission.shared_count import SharedCount
from proserve_core.admission.sliding_window import WINDOW_S, WindowUse, minute_of
from proserve_core.objectives import TenantLimits

IN_FLIGHT_RETRY_S = 1.0
"""When a place in flight becomes free is not known: it is worth asking again about this often."""
_LIFE_S = 2.5 * WINDOW_S
"""A minute's counter is read until the next one ends."""


class QuotaKind(StrEnum):
    """Label value and word in messages."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    IN_FLIGHT = "in_flight"


class QuotaUse(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One quota as of one moment."""

    kind: QuotaKind
    limit: int
    used: float
    reset_s: float
    """Until all of it is free again."""

    @property
    def remaining(self) -> int:
        return max(0, int(self.limit - self.used))


class QuotaRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request does not fit."""

    kind: QuotaKind
    limit: int
    """Of this replica only, while it works on its share."""
    used: float
    asked: int
    retry_after_s: float
    share: int
    """1: the limit is the tenant's whole one; else one of so many equal parts, because the store can't be asked."""


class Reservation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one request holds."""

    wall_s: float
    tokens: int


class TenantUsage:
    """Use of one tenant's quotas."""

    __slots__ = ("_in_flight", "_minutes", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._minutes: dict[tuple[QuotaKind, int], SharedCount] = {}
        """Requests and tokens of a minute."""
        self._in_flight = Presence(f"{QuotaKind.IN_FLIGHT}/{name}")

    def reserve(self, tokens: int, wall_s: float) -> Reservation:
        """Take what a request needs; `decide` or `abandon` follows."""
        reservation = Reservation(wall_s=wall_s, tokens=tokens)
        self._take(reservation, 1)
        self._undecided(reservation, 1)
        return reservation

    def refusal(self, reservation: Reservation, limits: TenantLimits, *, share: int = 1) -> QuotaRefusal | None:
        """Why an undecided reservation does not fit, by what is known. `share`: into one of so many equal parts of the
        limits, whatever other replicas use."""
        for kind, limit in limited(limits):
            part = max(1, limit // share)
            window = self._window(kind, reservation.wall_s, alone=share > 1)
            asked = min(reservation.tokens, part) if kind is QuotaKind.TOKENS else 1
            if window.used + asked > part:
                return QuotaRefusal(
                    kind=kind,
                    limit=part,
                    used=window.used,
                    asked=asked,
                    retry_after_s=IN_FLIGHT_RETRY_S if kind is QuotaKind.IN_FLIGHT else window.wait_s(asked, part),
                    share=share,
                )
        return None

    def decide(self, reservation: Reservation, limits: TenantLimits, *, share: int = 1) -> QuotaRefusal | None:
        """Whether the reservation stands; one that does not is given back."""
        refusal = self.refusal(reservation, limits, share=share)
        self._undecided(reservation, -1)
        if refusal is not None:
            self.give_back(reservation)
        return refusal

    def abandon(self, reservation: Reservation) -> None:
        """Instead of `decide`: nobody waits for the decision any more."""
        self._undecided(reservation, -1)
        self.give_back(reservation)

    def give_back(self, reservation: Reservation) -> None:
        """Nothing will come of a request that was admitted."""
        self._take(reservation, -1)

    def settle(self, reservation: Reservation, tokens: int, wall_s: float) -> None:
        """The request ended and took `tokens`."""
        self._in_flight.own -= 1
        then, now = minute_of(reservation.wall_s)[0], minute_of(wall_s)[0]
        if tokens > reservation.tokens:
            self._of_minute(QuotaKind.TOKENS, now).own += tokens - reservation.tokens
        elif then >= now - 1:
            self._of_minute(QuotaKind.TOKENS, then).own -= reservation.tokens - tokens

    def uses(self, limits: TenantLimits, wall_s: float) -> list[QuotaUse]:
        """Every limited quota as it stands."""
        found = []
        for kind, limit in limited(limits):
            window = self._window(kind, wall_s, alone=False)
            reset_s = IN_FLIGHT_RETRY_S if kind is QuotaKind.IN_FLIGHT else window.reset_s
            found.append(QuotaUse(kind=kind, limit=limit, used=window.used, reset_s=reset_s))
        return found

    def counts(self, limits: TenantLimits, wall_s: float) -> list[SharedCount]:
        """The counters that a decision at this time changes and rests on."""
        found: list[SharedCount] = []
        for kind, _ in limited(limits):
            if kind is QuotaKind.IN_FLIGHT:
                found += self._in_flight.counts(wall_s)
            else:
                found.append(self._of_minute(kind, minute_of(wall_s)[0]))
        return found

    def counts_before(self, limits: TenantLimits, wall_s: float) -> list[SharedCount]:
        """Those that it only rests on: of the minute before. They change when a request of that minute ends."""
        kinds = [kind for kind, _ in limited(limits) if kind is not QuotaKind.IN_FLIGHT]
        return [self._of_minute(kind, minute_of(wall_s)[0] - 1) for kind in kinds]

    def forgotten(self) -> None:
        """The store has nothing of ours any more."""
        self._in_flight.forgotten()
        for count in self._minutes.values():
            count.forgotten()

    def _take(self, reservation: Reservation, sign: int) -> None:
        minute, _ = minute_of(reservation.wall_s)
        self._of_minute(QuotaKind.REQUESTS, minute).own += sign
        self._of_minute(QuotaKind.TOKENS, minute).own += sign * reservation.tokens
        self._in_flight.own += sign

    def _undecided(self, reservation: Reservation, sign: int) -> None:
        minute, _ = minute_of(reservation.wall_s)
        self._of_minute(QuotaKind.REQUESTS, minute).undecided += sign
        self._of_minute(QuotaKind.TOKENS, minute).undecided += sign * reservation.tokens
        self._in_flight.undecided += sign

    def _window(self, kind: QuotaKind, wall_s: float, *, alone: bool) -> WindowUse:
        minute, passed = minute_of(wall_s)
        if kind is QuotaKind.IN_FLIGHT:
            return WindowUse(0, self._in_flight.counts(wall_s)[0].decided(alone=alone), passed)
        before, current = self._of_minute(kind, minute - 1), self._of_minute(kind, minute)
        return WindowUse(before.decided(alone=alone), current.decided(alone=alone), passed)

    def _of_minute(self, kind: QuotaKind, minute: int) -> SharedCount:
        key = (kind, minute)
        count = self._minutes.get(key)
        if count is None:
            # Older ones count for nothing any more.
            self._minutes = {known: each for known, each in self._minutes.items() if known[1] >= minute - 1}
            count = self._minutes[key] = SharedCount(f"{kind}/{self._name}/{minute}", life_s=_LIFE_S)
        return count


def limited(limits: TenantLimits) -> list[tuple[QuotaKind, int]]:
    """The quotas that are set."""
    named = (
        (QuotaKind.REQUESTS, limits.requests_per_minute),
        (QuotaKind.TOKENS, limits.tokens_per_minute),
        (QuotaKind.IN_FLIGHT, limits.max_in_flight),
    )
    return [(kind, limit) for kind, limit in named if limit is not None]


def tokens_to_reserve(limits: TenantLimits, *, prompt_tokens: int, expected_output_tokens: float) -> int:
    """The estimate of a request, never more than the whole quota: outputs are guesses, and what can be tried on an
    unused quota should not be refused for one."""
    estimate = prompt_tokens + round(expected_output_tokens)
    return estimate if limits.tokens_per_minute is None else min(estimate, limits.tokens_per_minute)


def never_fits(limits: TenantLimits, prompt_tokens: int) -> bool:
    """The prompt alone is larger than the quota."""
    return limits.tokens_per_minute is not None and prompt_tokens > limits.tokens_per_minute


def tokens_used(*, prompt_tokens: int | None, estimate: int, output_tokens: int, worked: bool) -> int:
    """What a request is charged in the end: as the engine counted it, else by the prompt's estimate if an engine may
    have `worked` on it; nothing where none did."""
    if prompt_tokens is None:
        prompt_tokens = estimate if worked or output_tokens else 0
    return prompt_tokens + output_tokens
