"""Service gain: token-level deadline-aware gain (TDG) and the ledger that says where gain was lost.

Source: ProServe (arXiv 2512.12928), section 3. Token i = 1, 2, ... of a request earns when it is emitted strictly
before `arrival + TTFT + (i - 1) * TPOT`. Deadlines are fixed at arrival: a late token never moves the next one.
This is the only place where gain is computed; engine, gateway, simulator and reports all call it.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec
import numpy as np

from proserve_core.objectives import ServiceTerms


class LossCause(StrEnum):
    """Why gain was not earned. Closed list, used as a metric label."""

    SHED = "shed"
    LATE_FIRST_TOKEN = "late_first_token"
    LATE_TOKEN_QUEUED = "late_token_queued"
    """Late because the first token was already late."""
    LATE_TOKEN_PREEMPTED = "late_token_preempted"
    LATE_TOKEN_BATCHED = "late_token_batched"
    """First token on time, no preemption: the steps were too long or the request was passed over."""
    ENGINE_FAILURE = "engine_failure"
    CLIENT_CANCEL = "client_cancel"


def deadline_s(*, terms: ServiceTerms, arrival_s: float, token: int) -> float:
    """When output token `token` (1-based) stops earning, on the clock of `arrival_s`."""
    return arrival_s + terms.objectives.ttft_s + (token - 1) * terms.objectives.tpot_s


def token_gain(terms: ServiceTerms, token: int) -> float:
    """Worth of output token `token` (1-based) when it is on time."""
    return terms.weight * (terms.first_token_gain if token == 1 else terms.output_token_gain)


def earnable_gain(terms: ServiceTerms, output_tokens: int) -> float:
    """Gain of a request with `output_tokens` tokens when all of them are on time."""
    if output_tokens <= 0:
        return 0.0
    return terms.weight * (terms.first_token_gain + (output_tokens - 1) * terms.output_token_gain)


def earned_gain(terms: ServiceTerms, arrival_s: float, emitted_s: Sequence[float]) -> float:
    """TDG of one request from the times at which its tokens were emitted."""
    return sum(
        token_gain(terms, token)
        for token, at_s in enumerate(emitted_s, start=1)
        if at_s < deadline_s(terms=terms, arrival_s=arrival_s, token=token)
    )


def rest_terms(terms: ServiceTerms, emitted_tokens: int) -> ServiceTerms:
    """Terms of the rest of a request, as a request of its own with the same arrival: token k of the rest has the
    deadline and the worth of token `emitted_tokens` + k."""
    if emitted_tokens <= 0:
        return terms
    objectives = terms.objectives
    return msgspec.structs.replace(
        terms,
        first_token_gain=terms.output_token_gain,
        objectives=msgspec.structs.replace(objectives, ttft_s=objectives.ttft_s + emitted_tokens * objectives.tpot_s),
    )


def slo_attained(terms: ServiceTerms, arrival_s: float, first_s: float, last_s: float, output_tokens: int) -> bool:
    """Whether TTFT and mean TPOT were both strictly below their objectives (ProServe, section 6)."""
    if first_s - arrival_s >= terms.objectives.ttft_s:
        return False
    return output_tokens < 2 or (last_s - first_s) / (output_tokens - 1) < terms.objectives.tpot_s


def _late_tokens(at_s: float, first_due_s: float, tpot_s: float) -> int:
    """How many tokens of a request are late at `at_s`, to the last bit as each deadline by itself would say."""
    late = max(0, int((at_s - first_due_s) / tpot_s))
    while late > 0 and at_s < first_due_s + (late - 1) * tpot_s:
        late -= 1
    while at_s >= first_due_s + late * tpot_s:
        late += 1
    return late


class RequestAccount:
    """Judges the tokens of one request as they pass. Times are on the clock of `arrival_s`."""

    __slots__ = ("arrival_s", "earned", "first_s", "last_s", "lost", "preempted", "terms", "tokens")

    def __init__(self, terms: ServiceTerms, arrival_s: float) -> None:
        self.terms = terms
        self.arrival_s = arrival_s
        self.tokens = 0
        self.earned = 0.0
        self.lost: dict[LossCause, float] = {}
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.preempted = False
        """Set by whoever knows that the request lost its blocks; cleared by the next token that is on time."""

    def tokens_at(self, at_s: float, count: int = 1) -> None:
        """Record that `count` tokens were emitted together at `at_s`."""
        if count <= 0:
            return
        if self.first_s is None:
            self.first_s = at_s
        self.last_s = at_s
        terms, before = self.terms, self.tokens
        self.tokens = after = before + count
        # Bare arithmetic, however many tokens there are: this runs for every chunk of every stream. Deadlines grow with
        # the token, so those that are late come first.
        first_due_s, tpot_s = self.arrival_s + terms.objectives.ttft_s, terms.objectives.tpot_s
        on_time_from = before
        if at_s >= first_due_s + before * tpot_s:
            on_time_from = min(after, _late_tokens(at_s, first_due_s, tpot_s)) if tpot_s > 0 else after
            if before == 0:
                self._lose(LossCause.LATE_FIRST_TOKEN, terms.weight * terms.first_token_gain)
            if late := on_time_from - max(before, 1):
                self._lose(self._lateness_cause(on_time_from), late * terms.weight * terms.output_token_gain)
        if on_time_from < after:
            self.preempted = False
            further = after - max(on_time_from, 1)
            self.earned += further * terms.weight * terms.output_token_gain
            if on_time_from == 0:
                self.earned += terms.weight * terms.first_token_gain

    def tokens_over(self, emitted_s: Sequence[float]) -> None:
        """Record tokens that were emitted one by one at these times: as `tokens_at` for each, in a few operations."""
        if not emitted_s:
            return
        terms, before = self.terms, self.tokens
        if self.first_s is None:
            self.first_s = emitted_s[0]
        self.last_s = emitted_s[-1]
        self.tokens += len(emitted_s)
        first_due_s = self.arrival_s + terms.objectives.ttft_s
        in_time = np.array(emitted_s) < first_due_s + np.arange(before, self.tokens) * terms.objectives.tpot_s
        start = 0
        if before == 0:
            start = 1
            gain = terms.weight * terms.first_token_gain
            if in_time[0]:
                self.earned += gain
                self.preempted = False
            else:
                self._lose(LossCause.LATE_FIRST_TOKEN, gain)
        kept = np.flatnonzero(in_time[start:])
        late = len(in_time) - start - len(kept)
        gain = terms.weight * terms.output_token_gain
        self.earned += len(kept) * gain
        if late and self.preempted:
            # Until one is on time again.
            behind = int(kept[0]) if len(kept) else late
            if behind:
                self._lose(LossCause.LATE_TOKEN_PREEMPTED, behind * gain)
            late -= behind
        if len(kept):
            self.preempted = False
        if late:
            self._lose(self._lateness_cause(self.tokens), late * gain)

    def _lose(self, cause: LossCause, gain: float) -> None:
        self.lost[cause] = self.lost.get(cause, 0.0) + gain

    def _lateness_cause(self, token: int) -> LossCause:
        if token == 1:
            return LossCause.LATE_FIRST_TOKEN
        if self.preempted:
            return LossCause.LATE_TOKEN_PREEMPTED
        first_s = self.first_s if self.first_s is not None else self.arrival_s
        if first_s - self.arrival_s >= self.terms.objectives.ttft_s:
            return LossCause.LATE_TOKEN_QUEUED
        return LossCause.LATE_TOKEN_BATCHED

    def give_up(self, cause: LossCause, expected_tokens: int, *, late_s: float | None = None) -> None:
        """Charge the tokens that will never come (up to `expected_tokens` in all) to `cause`, but for those that were
        late at `late_s` already: they are charged as late.

        Tokens that are worth nothing are charged too, as 0: the cause still says that the request was not finished.
        """
        if expected_tokens > self.tokens:
            lost = earnable_gain(self.terms, expected_tokens) - earnable_gain(self.terms, self.tokens)
            self._lose(cause, lost - (0.0 if late_s is None else self._lose_overdue(late_s, expected_tokens)))

    def _lose_overdue(self, at_s: float, most_tokens: int) -> float:
        """Charge tokens that should have come before `at_s`, up to `most_tokens` in all; returns their gain."""
        terms, before = self.terms, self.tokens
        first_due_s, tpot_s = self.arrival_s + terms.objectives.ttft_s, terms.objectives.tpot_s
        if at_s < first_due_s + before * tpot_s:
            return 0.0
        late = min(most_tokens, _late_tokens(at_s, first_due_s, tpot_s)) if tpot_s > 0 else most_tokens
        first = 0.0
        if before == 0:
            first = terms.weight * terms.first_token_gain
            self._lose(LossCause.LATE_FIRST_TOKEN, first)
        further = (late - max(before, 1)) * terms.weight * terms.output_token_gain
        if late > max(before, 1):
            self._lose(LossCause.LATE_TOKEN_QUEUED if before == 0 else self._lateness_cause(late), further)
        return first + further

    @property
    def earnable(self) -> float:
        """Earned plus lost: what the request could have brought."""
        return self.earned + sum(self.lost.values())

    @property
    def slo_attained(self) -> bool:
        """False for a request that got no token or lost tokens for good."""
        if self.first_s is None or self.last_s is None or not _FATAL.isdisjoint(self.lost):
            return False
        return slo_attained(self.terms, self.arrival_s, self.first_s, self.last_s, self.tokens)


_FATAL = frozenset({LossCause.SHED, LossCause.ENGINE_FAILURE, LossCause.CLIENT_CANCEL})


class GainTotals(msgspec.Struct, kw_only=True):
    """Sums over finished requests."""

    requests: int = 0
    slo_attained: int = 0
    tokens: int = 0
    earned: float = 0.0
    earnable: float = 0.0
    lost: dict[LossCause, float] = {}

    @property
    def tdg_ratio(self) -> float:
        """Earned over earnable; 1 when nothing was earnable."""
        return self.earned / self.earnable if self.earnable > 0 else 1.0

    @property
    def slo_attainment(self) -> float:
        return self.slo_attained / self.requests if self.requests else 1.0

    def add(self, account: RequestAccount) -> None:
        self.requests += 1
        self.slo_attained += account.slo_attained
        self.tokens += account.tokens
        self.earned += account.earned
        self.earnable += account.earnable
        for cause, gain in account.lost.items():
            self.lost[cause] = self.lost.get(cause, 0.0) + gain

    def merge(self, other: "GainTotals") -> None:
        self.requests += other.requests
        self.slo_attained += other.slo_attained
        self.tokens += other.tokens
        self.earned += other.earned
        self.earnable += other.earnable
        for cause, gain in other.lost.items():
            self.lost[cause] = self.lost.get(cause, 0.0) + gain


class GainLedger:
    """Gain delivered and lost, by class and tenant. `tenant` is "" where nobody distinguishes them."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str], GainTotals] = {}

    def close(self, account: RequestAccount, *, tenant: str = "") -> None:
        """Take a finished request into the sums."""
        key = (account.terms.priority_class, tenant)
        totals = self._totals.get(key)
        if totals is None:
            totals = self._totals[key] = GainTotals()
        totals.add(account)

    @property
    def by_class_and_tenant(self) -> Mapping[tuple[str, str], GainTotals]:
        return self._totals

    def by_class(self) -> dict[str, GainTotals]:
        sums: dict[str, GainTotals] = {}
        for (name, _), totals in self._totals.items():
            sums.setdefault(name, GainTotals()).merge(totals)
        return sums

    def by_tenant(self) -> dict[str, GainTotals]:
        sums: dict[str, GainTotals] = {}
        for (_, tenant), totals in self._totals.items():
            sums.setdefault(tenant, GainTotals()).merge(totals)
        return sums

    def total(self) -> GainTotals:
        total = GainTotals()
        for totals in self._totals.values():
            total.merge(totals)
        return total
