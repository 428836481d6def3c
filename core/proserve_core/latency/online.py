"""Online correction of a step-latency model while the engine runs.

Recursive least squares in information form with exponential forgetting, on relative errors and with non-negative
coefficients; the knee stays that of the initial model. What plain recursive least squares gets wrong here:

- Features that don't occur (no prefills for a while) would drift or be forgotten. Each stratum keeps its own sums,
  which fade with that stratum's steps and only slowly with others', and a weak pull towards the initial model decides
  what the data leave open. Where the data ask for much more than the initial model has, the pull moves along: it is
  relative, and a coefficient that starts 50 times too small (another model, another machine) would never get there.
- A step that took ten times as long is a pause, not news; but a GPU that was throttled stays slow. A step is rejected
  when its log ratio to the prediction is far beyond the running scale of its stratum; rejected steps still widen that
  scale, so a lasting shift is rejected for about ten steps and then learned, with faster forgetting while the mean
  residual stays large.

Pure Python: it runs between engine steps (docs/latency.md has the measured cost).
"""

import math
from collections import deque
from collections.abc import Sequence

from proserve_core.latency.errors import ErrorStats, Stratum, error_stats, stratum_of
from proserve_core.latency.features import COEFFICIENTS, coefficients, features, linear_knee, model_of
from proserve_core.latency.model import LatencyModel, StepWork
from proserve_core.latency.nnls import nnls

FORGETTING = 0.995
"""Weight that a stratum's past keeps with each of its steps: a memory of 200 steps."""
FORGETTING_SHIFTED = 0.96
"""The same while the model is clearly off: a memory of 25 steps."""
FORGETTING_OTHERS = 0.9995
"""Weight that the other strata's past keeps."""
SCALE_RATE = 0.05
SCALE_START = 1.0
"""Running scale of log ratios before the first step: the first model may be another machine's."""
SCALE_LEAST = 0.02
REJECT_BEYOND = 5.0
"""Steps whose log ratio exceeds the scale this many times are outliers."""
BIAS_RATE = 0.05
BIAS_LARGE = 0.05
BIAS_SHARE = 0.6
"""The model is clearly off when the mean log ratio exceeds both `BIAS_LARGE` and this share of the scale: around a
right model it is noise, a fifth of the scale."""
WINDOW = 512
"""Steps over which errors are reported."""

PULL_SHIFTED = 0.01
"""Share of the pull that is left while the model is clearly off."""
HASTE = 8
ANCHOR_GROWTH = 2.0
"""A coefficient this many times its anchor becomes the new anchor."""

# What one unit of a feature costs when the initial model says nothing, as a share of the constant cost of a step.
TYPICAL_SHARES = (1.0, 2e-3, 1e-7, 1e-5, 1e-2)

_PAIRS = tuple((i, j) for i in range(COEFFICIENTS) for j in range(i, COEFFICIENTS))


class _StratumFit:
    """Sums and error statistics of one kind of step."""

    __slots__ = ("bias", "errors", "fade", "gram", "scale", "target")

    def __init__(self) -> None:
        self.gram = [0.0] * len(_PAIRS)
        self.target = [0.0] * COEFFICIENTS
        self.fade = 1.0
        """Forgetting by other strata's steps that `gram` and `target` do not contain yet."""
        self.scale = SCALE_START
        self.bias = 0.0
        self.errors: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    def accepts(self, log_ratio: float) -> bool:
        """Whether the step is news; takes it into scale and bias either way."""
        limit = REJECT_BEYOND * self.scale
        size = min(abs(log_ratio), limit)
        self.scale = max(SCALE_LEAST, self.scale + SCALE_RATE * (size - self.scale))
        self.bias += BIAS_RATE * (math.copysign(size, log_ratio) - self.bias)
        return abs(log_ratio) <= limit

    @property
    def shifted(self) -> bool:
        """Whether the model is clearly off for this kind of step."""
        return abs(self.bias) > max(BIAS_LARGE, BIAS_SHARE * self.scale)

    def rescale(self, factors: list[float]) -> None:
        """Express the sums in units that are larger by `factors`."""
        self.gram = [value * factors[i] * factors[j] for value, (i, j) in zip(self.gram, _PAIRS, strict=True)]
        self.target = [value * factor for value, factor in zip(self.target, factors, strict=True)]

    def add(self, row: list[float], goal: float, keep: float) -> None:
        keep *= self.fade
        self.fade = 1.0
        self.gram = [keep * value + row[i] * row[j] for value, (i, j) in zip(self.gram, _PAIRS, strict=True)]
        self.target = [keep * value + part * goal for value, part in zip(self.target, row, strict=True)]


class OnlineLatency:
    """A latency model that follows the engine. `model` is replaced, never changed."""

    def __init__(self, initial: LatencyModel, *, publish_every: int = 32) -> None:
        """Start from `initial`; publish a new model after every `publish_every` steps that were learned from.

        While the model is clearly off, `HASTE` times as often.
        """
        if publish_every < 1:
            raise ValueError(f"publish_every {publish_every} must be at least 1")
        self.model = initial
        """The last published model."""
        self.observed = 0
        self.rejected = 0
        """Steps not learned from: outliers, and steps without work or a usable time."""
        self._publish_every = publish_every
        self._unpublished = 0
        self._knee = linear_knee(initial)
        prior = coefficients(initial)
        self._host_share = initial.host_s / prior[0] if prior[0] > 0 else 0.0
        constant_s = prior[0] + prior[1] * self._knee or 1e-3
        # In units of the prior (or of what is typical) all coefficients are about 1 and the system is well conditioned.
        self._units = [value or share * constant_s for value, share in zip(prior, TYPICAL_SHARES, strict=True)]
        self._prior = [value / unit for value, unit in zip(prior, self._units, strict=True)]
        self._strata = {stratum: _StratumFit() for stratum in Stratum}
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._recent_sum = 0.0

    @property
    def mape(self) -> float | None:
        """Mean absolute error of the last predictions relative to the measured times; None before the first."""
        return self._recent_sum / len(self._recent) if self._recent else None

    def errors(self) -> dict[Stratum, ErrorStats]:
        """Errors of the predictions made for the last `WINDOW` steps of each kind, outliers included."""
        found = {stratum: error_stats(fit.errors) for stratum, fit in self._strata.items()}
        return {stratum: stats for stratum, stats in found.items() if stats is not None}

    def observe(self, work: StepWork, measured_s: float) -> bool:
        """Learn from a finished step; True when a new model was published."""
        self.observed += 1
        if work.sequences <= 0 or not 0 < measured_s < math.inf:
            self.rejected += 1
            return False
        predicted_s = self.model.step_s(work)
        stratum = stratum_of(work)
        fit = self._strata[stratum]
        self._note_error(fit, predicted_s, measured_s)
        if not fit.accepts(math.log(measured_s / predicted_s) if predicted_s > 0 else 0.0):
            self.rejected += 1
            return False
        shifted = fit.shifted
        for other in self._strata.values():
            if other is not fit:
                other.fade *= FORGETTING_SHIFTED if shifted else FORGETTING_OTHERS
        # The larger of both times as weight: a slow step must not count for more than a fast one.
        weight = 1 / (measured_s if measured_s > predicted_s else predicted_s)
        row = [part * unit * weight for part, unit in zip(features(work, self._knee), self._units, strict=True)]
        fit.add(row, measured_s * weight, FORGETTING_SHIFTED if shifted else FORGETTING)
        self._unpublished += 1
        if self._unpublished < (self._publish_every / HASTE if shifted else self._publish_every):
            return False
        self._unpublished = 0
        self.model = self._solve()
        return True

    def _note_error(self, fit: _StratumFit, predicted_s: float, measured_s: float) -> None:
        fit.errors.append((predicted_s, measured_s))
        error = abs(predicted_s - measured_s) / measured_s
        recent = self._recent
        if len(recent) == WINDOW:
            self._recent_sum -= recent[0]
        recent.append(error)
        self._recent_sum = self._recent_sum + error if len(recent) > 1 else error

    def _solve(self) -> LatencyModel:
        fits = self._strata.values()
        gram = [[0.0] * COEFFICIENTS for _ in range(COEFFICIENTS)]
        for place, (i, j) in enumerate(_PAIRS):
            gram[i][j] = gram[j][i] = sum([fit.gram[place] * fit.fade for fit in fits])
        target = [sum([fit.target[i] * fit.fade for fit in fits]) for i in range(COEFFICIENTS)]
        # Precision of "each coefficient is within 100% of the initial one" against steps with this much noise.
        mass = [fit.gram[0] * fit.fade for fit in fits]
        noise = sum([part * fit.scale for part, fit in zip(mass, fits, strict=True)]) / (sum(mass) or 1.0)
        pull = max(noise, SCALE_LEAST) ** 2
        if any(fit.shifted for fit in fits):
            pull *= PULL_SHIFTED
        for i in range(COEFFICIENTS):
            gram[i][i] += pull
            target[i] += pull * self._prior[i]
        values = nnls(gram, target)
        model = model_of(
            tuple([value * unit for value, unit in zip(values, self._units, strict=True)]),
            knee_tokens=self._knee,
            host_share=self._host_share,
        )
        self._move_anchor(values)
        return model

    def _move_anchor(self, values: Sequence[float]) -> None:
        """Pull towards the coefficients just found where they outgrew those pulled to so far."""
        grown = [value > ANCHOR_GROWTH for value in values]
        if not any(grown):
            return
        factors = [value if large else 1.0 for value, large in zip(values, grown, strict=True)]
        self._units = [unit * factor for unit, factor in zip(self._units, factors, strict=True)]
        self._prior = [1.0 if large else value for value, large in zip(self._prior, grown, strict=True)]
        for fit in self._strata.values():
            fit.rescale(factors)
