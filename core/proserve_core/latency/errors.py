"""How good step predictions are, by kind of step.

One figure over all steps hides that decode-only steps, the bulk, are easy and mixed steps are not; reported as MAE,
MAPE and P95 per stratum, as SlidingServe and BLIS do.
"""

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from proserve_core.latency.model import StepWork


class Stratum(StrEnum):
    DECODE = "decode"
    PREFILL = "prefill"
    MIXED = "mixed"


def stratum_of(work: StepWork) -> Stratum:
    """Kind of a step by what it computes."""
    if work.attention <= 0:
        return Stratum.DECODE
    return Stratum.MIXED if work.decode_context > 0 else Stratum.PREFILL


class ErrorStats(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of predicted step times."""

    steps: int
    mae_s: float
    """Mean absolute error."""
    mape: float
    """Mean absolute error relative to the measured time, as a ratio."""
    p95_s: float
    """95% of absolute errors are at most this."""


def error_stats(pairs: Iterable[tuple[float, float]]) -> ErrorStats | None:
    """Errors of (predicted, measured) seconds; None for no pairs."""
    errors, relative = [], 0.0
    for predicted_s, measured_s in pairs:
        error_s = abs(predicted_s - measured_s)
        errors.append(error_s)
        relative += error_s / measured_s
    if not errors:
        return None
    errors.sort()
    return ErrorStats(
        steps=len(errors), mae_s=sum(errors) / len(errors), mape=relative / len(errors), p95_s=quantile(errors, 0.95)
    )


def quantile(ascending: Sequence[float], share: float) -> float:
    """Smallest value that at least `share` of the values do not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
