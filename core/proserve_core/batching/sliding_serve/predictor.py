"""Batch latency predictor: a linear model of seven features for each kind of batch, refit while the engine runs.

Source: SlidingServe, batch latency predictor (seven theory-derived features, one linear model per scenario; reported R2
above 0.99 and MAE up to 2.72 ms). Features and scenarios are ours, a superset of QoServe's public ones (tokens, prompt
tokens, decodes, decode context, prompt context; two strata of batch size): tokens n, prompt tokens p, decodes d, decode
context K, attention A of the chunks, prompt context P, sequences s, and a constant. Batches of decodes, of prompts,
and mixed ones up to the knee and beyond it have a model each, so that the knee needs no feature; prompts alone are
rarely fewer tokens than that.

Each scenario keeps sums for least squares on relative errors, which fade; coefficients are not negative, because work
never saves time. Until a scenario has `MIN_SAMPLES` batches, and where the fit sees nothing, the engine's own latency
model answers.
"""

from collections import deque
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from proserve_core.latency import LatencyModel, StepWork
from proserve_core.latency.errors import quantile
from proserve_core.latency.nnls import nnls

MIN_SAMPLES = 50
REFIT_EVERY = 25
"""Batches of a scenario between two fits."""
FADE = 0.998
"""Weight that the past keeps with each batch: a memory of 500 batches."""
WINDOW = 500
"""Batches of a scenario over which errors are reported."""
DEFAULT_KNEE_TOKENS = 512
"""Split of mixed batches for an engine whose latency model has no knee."""
_SIZE = 8


class Scenario(StrEnum):
    DECODE = "decode"
    PREFILL = "prefill"
    MIXED_SMALL = "mixed-small"
    MIXED_LARGE = "mixed-large"


_DECODE, _PREFILL, _MIXED_SMALL, _MIXED_LARGE = Scenario
"""To read a member from its class takes as long as half a prediction."""


class BatchFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over one batch."""

    prompt_tokens: int = 0
    decodes: int = 0
    decode_context: int = 0
    attention: float = 0.0
    """Sum over chunks q at context x of q * (x + (q + 1) / 2): pairs of tokens that attend to each other."""
    prompt_context: int = 0
    """Sum of the contexts before the chunks."""
    sequences: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.decodes

    def scenario(self, knee_tokens: float) -> Scenario:
        if self.prompt_tokens == 0:
            return _DECODE
        if self.decodes == 0:
            return _PREFILL
        return _MIXED_SMALL if self.prompt_tokens + self.decodes <= knee_tokens else _MIXED_LARGE

    def row(self) -> tuple[float, ...]:
        """What the coefficients multiply."""
        return (
            1.0,
            self.tokens,
            self.prompt_tokens,
            self.decodes,
            self.decode_context,
            self.attention,
            self.prompt_context,
            self.sequences,
        )

    def work(self) -> StepWork:
        """The same batch as the latency model counts it."""
        return StepWork(
            new_tokens=self.tokens,
            attention=2 * self.attention - self.prompt_tokens,
            decode_context=self.decode_context,
            sequences=self.sequences,
        )


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """How good the predictions for the last batches of a scenario were, each made before its batch was learned from."""

    batches: int
    r2: float
    """1 - unexplained / total variance; 1 when all batches took the same time and were predicted exactly."""
    mae_s: float
    p95_s: float
    """95% of absolute errors are at most this."""


class BatchLatencyPredictor:
    """Predicts the duration of a batch, learns from measured ones."""

    def __init__(self) -> None:
        self._fits: dict[Scenario, _Fit] = {scenario: _Fit() for scenario in Scenario}
        self._known: tuple[LatencyModel | None, float] = None, 0.0
        """The latency model that was asked about last, and its knee."""

    def predict_s(self, features: BatchFeatures, latency: LatencyModel) -> float:
        """Seconds; 0 for an empty batch."""
        if features.sequences == 0:
            return 0.0
        coefficients = self._fits[features.scenario(self._knee_tokens(latency))].coefficients
        if coefficients is None:
            return latency.step_s(features.work())
        # Written out: a plan asks about a hundred times.
        constant, tokens, prompt_tokens, decodes, decode_context, attention, prompt_context, sequences = coefficients
        return (
            constant
            + tokens * (features.prompt_tokens + features.decodes)
            + prompt_tokens * features.prompt_tokens
            + decodes * features.decodes
            + decode_context * features.decode_context
            + attention * features.attention
            + prompt_context * features.prompt_context
            + sequences * features.sequences
        )

    def observe(self, features: BatchFeatures, measured_s: float, latency: LatencyModel) -> None:
        """Learn from a batch that took `measured_s` (above 0)."""
        predicted_s = self.predict_s(features, latency)
        fit = self._fits[features.scenario(self._knee_tokens(latency))]
        fit.recent.append((predicted_s, measured_s))
        fit.add([value / measured_s for value in features.row()])

    def fidelity(self) -> dict[Scenario, Fidelity]:
        """By scenario, of those that occurred."""
        return {scenario: _fidelity(fit.recent) for scenario, fit in self._fits.items() if fit.recent}

    def _knee_tokens(self, latency: LatencyModel) -> float:
        """A plan asks a hundred times about the same model."""
        known, knee = self._known
        if known is not latency:
            knee = _knee(latency)
            self._known = latency, knee
        return knee


class _Fit:
    """Least squares of one scenario."""

    def __init__(self) -> None:
        self.coefficients: list[float] | None = None
        self.recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._gram = [[0.0] * _SIZE for _ in range(_SIZE)]
        self._target = [0.0] * _SIZE
        self._batches = 0

    def add(self, row: Sequence[float]) -> None:
        """A batch's features over its time: the goal is 1 for every batch, so errors are relative."""
        gram, target = self._gram, self._target
        for i, value in enumerate(row):
            target[i] = FADE * target[i] + value
            sums = gram[i]
            for j in range(i, _SIZE):
                sums[j] = gram[j][i] = FADE * sums[j] + value * row[j]
        self._batches += 1
        if self._batches >= MIN_SAMPLES and self._batches % REFIT_EVERY == 0:
            self.coefficients = nnls(gram, target)


def _knee(latency: LatencyModel) -> float:
    knee = latency.knee_tokens
    return knee if 0 < knee < float("inf") else DEFAULT_KNEE_TOKENS


def _fidelity(pairs: Sequence[tuple[float, float]]) -> Fidelity:
    errors = sorted(abs(predicted - measured) for predicted, measured in pairs)
    mean_s = sum(measured for _, measured in pairs) / len(pairs)
    total = sum((measured - mean_s) ** 2 for _, measured in pairs)
    unexplained = sum(error**2 for error in errors)
    return Fidelity(
        batches=len(pairs),
        r2=1 - unexplained / total if total > 0 else float(unexplained == 0),
        mae_s=sum(errors) / len(errors),
        p95_s=quantile(errors, 0.95),
    )
