"""What a replay delivered, as its clients saw it: gain, objectives met, latencies and where gain was lost, per class.

Gain is computed by `proserve_core.gain` from the moment the request was sent and the arrival of each token: the code
that gateway and engines maximise. A request that failed loses all the tokens it did not get.
"""

from collections.abc import Sequence

import msgspec

from proserve_core.gain import GainTotals, LossCause, RequestAccount
from proserve_lab.replay import ReplayRecord

SHED_STATUS = 429


class ClassReport(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the requests of one class. Latencies are None when no request got that far."""

    requests: int
    errors: int
    tokens: int
    gain: float
    earnable_gain: float
    tdg_ratio: float
    slo_attainment: float
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    """Mean time per output token after the first, of one request; its median over requests."""
    tpot_p99_s: float | None
    lost: dict[str, float]
    """Gain lost, by cause."""


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """All classes of one replay, and their sum under `total`."""

    total: ClassReport
    classes: dict[str, ClassReport]
    duration_s: float
    """From the first request to the last token."""
    send_lag_p99_s: float
    """How late the client itself sent; not charged to the server."""
    errors: dict[str, int]
    """Messages of failed requests and how often each came."""


def judge(records: Sequence[ReplayRecord]) -> ReplayReport:
    """Judge a finished replay."""
    by_class: dict[str, list[ReplayRecord]] = {}
    messages: dict[str, int] = {}
    for record in records:
        by_class.setdefault(record.request.terms.priority_class, []).append(record)
        if record.error is not None:
            messages[record.error] = messages.get(record.error, 0) + 1
    lags = [record.sent_s - record.request.arrival_s for record in records]
    ends = [record.tokens_s[-1] if record.tokens_s else record.sent_s for record in records]
    return ReplayReport(
        total=_report(records),
        classes={name: _report(members) for name, members in sorted(by_class.items())},
        duration_s=max(ends) - min(record.sent_s for record in records),
        send_lag_p99_s=percentile(lags, 99) or 0.0,
        errors=messages,
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The value that `percent` of `values` do not exceed (nearest rank); None without values."""
    if not values:
        return None
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def account_of(record: ReplayRecord) -> RequestAccount:
    """The gain account of one record."""
    account = RequestAccount(record.request.terms, record.sent_s)
    for at_s in record.tokens_s:
        account.tokens_at(at_s)
    if record.error is not None:
        cause = LossCause.SHED if record.status == SHED_STATUS else LossCause.ENGINE_FAILURE
        account.give_up(cause, record.request.output_tokens)
    return account


def _report(records: Sequence[ReplayRecord]) -> ClassReport:
    totals = GainTotals()
    for record in records:
        totals.add(account_of(record))
    ttfts = [record.tokens_s[0] - record.sent_s for record in records if record.tokens_s]
    tpots = [
        (record.tokens_s[-1] - record.tokens_s[0]) / (len(record.tokens_s) - 1)
        for record in records
        if len(record.tokens_s) > 1
    ]
    return ClassReport(
        requests=totals.requests,
        errors=sum(record.error is not None for record in records),
        tokens=totals.tokens,
        gain=totals.earned,
        earnable_gain=totals.earnable,
        tdg_ratio=totals.tdg_ratio,
        slo_attainment=totals.slo_attainment,
        ttft_p50_s=percentile(ttfts, 50),
        ttft_p99_s=percentile(ttfts, 99),
        tpot_p50_s=percentile(tpots, 50),
        tpot_p99_s=percentile(tpots, 99),
        lost={cause.value: gain for cause, gain in sorted(totals.lost.items())},
    )
