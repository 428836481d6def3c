"""Offline fit of a step-latency model from measured steps.

For each candidate knee the model is linear (`features`); non-negative least squares on relative errors gives its
coefficients, and the knee with the least error wins if it is clearly better than none. Steps far off the fit (a pause
of the process, another tenant of the GPU) are dropped and the fit repeated. Relative errors, because a step of 5 ms
matters as much as one of 500 ms and there are far more of them; the same choice as QoServe's and SlidingServe's
predictors, which are linear without the knee.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.latency.errors import ErrorStats, Stratum, error_stats, stratum_of
from proserve_core.latency.features import COEFFICIENTS, features, model_of
from proserve_core.latency.model import LatencyModel, StepWork
from proserve_core.latency.nnls import nnls

Array = NDArray[np.float64]

MIN_SAMPLES = 20
KNEE_CANDIDATES = 40
KNEE_MARGIN = 0.99
"""A knee must leave at most this share of the error without one: noise alone always finds some knee."""
TRIM_ROUNDS = 4
TRIM_DEVIATIONS = 5.0
"""Steps further off than this many robust standard deviations of relative error, per stratum, are dropped."""
TRIM_FROM = 0.1
"""Relative errors up to this are never dropped: a slight misfit of a rare kind of step is not an outlier."""
SMALLEST_SHARE = 0.05
"""Relative weights stop growing below this share of the median step time."""


class StepSample(msgspec.Struct, frozen=True):
    """One measured step."""

    work: StepWork
    measured_s: float


class FitReport(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model describes the steps that were kept."""

    samples: int
    trimmed: int
    """Steps dropped as outliers; the figures below are without them."""
    knee_tokens: float
    """0 when no knee was found."""
    r2: float
    overall: ErrorStats
    strata: dict[Stratum, ErrorStats]


def fit_latency(samples: Sequence[StepSample], *, host_s: float = 0.0) -> tuple[LatencyModel, FitReport]:
    """Fit a model and say how good it is.

    Args:
        samples: measured steps; empty ones and ones without a time are of no use and ignored.
        host_s: host work per step if it is known from elsewhere; splits the constant, which timing can't.

    Raises:
        ValueError: fewer than `MIN_SAMPLES` usable samples.
    """
    usable = [sample for sample in samples if sample.work.sequences > 0 and 0 < sample.measured_s < float("inf")]
    if len(usable) < MIN_SAMPLES:
        raise ValueError(f"{len(usable)} usable step samples of {len(samples)}: a fit needs at least {MIN_SAMPLES}")
    measured = np.array([sample.measured_s for sample in usable])
    table = np.array([features(sample.work, 0.0) for sample in usable])
    weight = 1 / np.maximum(measured, SMALLEST_SHARE * float(np.median(measured)))
    strata = np.array([stratum_of(sample.work) for sample in usable])
    kept = np.ones(len(usable), dtype=bool)
    for _ in range(TRIM_ROUNDS):
        knee, values = _best_knee(table[kept], measured[kept], weight[kept])
        residual = (_with_knee(table, knee) @ values - measured) * weight
        inside = _inliers(residual, kept, strata)
        if np.array_equal(inside, kept) or int(inside.sum()) < MIN_SAMPLES:
            break
        kept = inside
    constant_s = float(values[0])
    model = model_of(
        tuple(map(float, values)),
        knee_tokens=knee,
        host_share=min(host_s, constant_s) / constant_s if constant_s > 0 else 0.0,
    )
    return model, _report(model, knee, [s for s, keep in zip(usable, kept, strict=True) if keep], len(usable))


def _inliers(residual: Array, kept: NDArray[np.bool_], strata: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Steps near the middle of their stratum's relative errors: prefills scatter more than decodes."""
    inside = np.zeros(len(residual), dtype=bool)
    for name in np.unique(strata):
        own = strata == name
        known = own & kept if bool((own & kept).any()) else own
        deviation = np.abs(residual - np.median(residual[known]))
        spread = 1.4826 * float(np.median(deviation[known]))
        inside |= own & (deviation <= max(TRIM_DEVIATIONS * spread, TRIM_FROM))
    return inside


def _report(model: LatencyModel, knee: float, kept: Sequence[StepSample], usable: int) -> FitReport:
    by_stratum: dict[Stratum, list[tuple[float, float]]] = {}
    for sample in kept:
        pair = (model.step_s(sample.work), sample.measured_s)
        by_stratum.setdefault(stratum_of(sample.work), []).append(pair)
    pairs = [pair for group in by_stratum.values() for pair in group]
    overall = error_stats(pairs)
    assert overall is not None, "a fit keeps samples"
    mean_s = sum(measured for _, measured in pairs) / len(pairs)
    variance = sum((measured - mean_s) ** 2 for _, measured in pairs)
    unexplained = sum((predicted - measured) ** 2 for predicted, measured in pairs)
    return FitReport(
        samples=usable,
        trimmed=usable - len(kept),
        knee_tokens=knee,
        r2=1 - unexplained / variance if variance > 0 else 1.0,
        overall=overall,
        strata={name: stats for name, group in by_stratum.items() if (stats := error_stats(group)) is not None},
    )


def _with_knee(table: Array, knee: float) -> Array:
    shaped = table.copy()
    shaped[:, 1] = np.maximum(table[:, 1], knee)
    return shaped


def _solve(table: Array, measured: Array, weight: Array, knee: float) -> tuple[float, Array]:
    """Relative squared error and coefficients at a knee."""
    scaled = _with_knee(table, knee) * weight[:, None]
    goal = measured * weight
    values = np.array(nnls((scaled.T @ scaled).tolist(), (scaled.T @ goal).tolist()))
    return float(np.sum((scaled @ values - goal) ** 2)), values


def _best_knee(table: Array, measured: Array, weight: Array) -> tuple[float, Array]:
    """Search a geometric grid of knees, then the neighbourhood of the best one."""
    without, values = _solve(table, measured, weight, 0.0)
    tokens = table[:, 1]
    low, high = max(1.0, float(tokens.min())), float(np.quantile(tokens, 0.98))
    if high <= low or table.shape[0] <= COEFFICIENTS:
        return 0.0, values
    grid = np.geomspace(low, high, KNEE_CANDIDATES)
    errors = [_solve(table, measured, weight, float(knee))[0] for knee in grid]
    best = int(np.argmin(errors))
    fine = np.linspace(grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)], KNEE_CANDIDATES)
    knee = float(min(fine, key=lambda candidate: _solve(table, measured, weight, float(candidate))[0]))
    error, with_knee = _solve(table, measured, weight, knee)
    # Without growth beyond it a knee says nothing.
    return (knee, with_knee) if error < KNEE_MARGIN * without and with_knee[1] > 0 else (0.0, values)
