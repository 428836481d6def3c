"""Gain of finished requests as the gateway's admin port tells it."""

import msgspec

from proserve_core.gain import GainTotals, LossCause


class GainStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over finished requests, and their ratios."""

    requests: int
    tokens: int
    earned: float
    earnable: float
    tdg_ratio: float
    """1 when nothing was earnable."""
    slo_attainment: float
    """1 when nothing was finished."""
    lost: dict[LossCause, float]

    @classmethod
    def of(cls, totals: GainTotals) -> "GainStatus":
        return cls(
            requests=totals.requests,
            tokens=totals.tokens,
            earned=totals.earned,
            earnable=totals.earnable,
            tdg_ratio=totals.tdg_ratio,
            slo_attainment=totals.slo_attainment,
            lost=dict(totals.lost),
        )


class GainSeries(msgspec.Struct, frozen=True, kw_only=True):
    """Gain of one class, interval by interval."""

    earned: list[float]
    earnable: list[float]


class GainReply(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `/gain`."""

    windows: dict[str, dict[str, GainStatus]]
    """By length of time until now (`1m`, `5m`, `1h`; `all`: since the gateway started) and class."""
    ends_unix_s: list[float]
    """Ends of the intervals of `series`, oldest first."""
    series: dict[str, GainSeries]
    """By class."""
