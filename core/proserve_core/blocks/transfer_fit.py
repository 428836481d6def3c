"""Follows how fast copies really are.

Per direction, recursive least squares on relative errors with exponential forgetting and a weak pull towards the
preset, as the step-latency fit does it (`latency.online`): two unknowns, non-negative, a handful of sums for memory.
The pull decides what the copies leave open: if all have the same size per call, the two terms can't be told apart, and
their ratio stays that of the preset. A copy whose log ratio to the prediction is far beyond the running scale is a
hiccup and is not learned from, but it widens the scale, so that a link that stays slow is learned after some copies.

How much slower copies are beside those of the other way is learned once the direction is known: the mean log ratio of
such copies to what they would take alone. Before that they teach the direction, by the factor believed so far.
"""

import math

import msgspec

from proserve_core.blocks.transfer import Direction, LinkModel, TransferModel
from proserve_core.latency.nnls import nnls

FORGETTING = 0.98
"""Weight that the past keeps with each copy: a memory of 50 copies."""
LEAST_COPIES = 8
"""Copies to learn from before the fit replaces the preset."""
PULL = 1e-3
"""Weight of the preset's ratio of the terms, as a share of that of the copies seen."""
SCALE_RATE = 0.1
SCALE_START = 1.0
"""Running scale of log ratios before the first copy: the preset may be another machine's."""
SCALE_LEAST = 0.02
REJECT_BEYOND = 5.0
MOST_BOTH_BUSY = 4.0
"""Directions that share one bus slow each other down by 2; beyond twice that it was something else."""
LEAST_CALL_S = 1e-9
LEAST_BYTE_S = 1e-15
"""Units where the preset has 0; far below any real link."""


class _LinkFit:
    """Sums of one direction, in units of its preset."""

    __slots__ = ("_gram", "_scale", "_target", "_units", "learned")

    def __init__(self, preset: LinkModel) -> None:
        self._units = (max(preset.call_s, LEAST_CALL_S), max(preset.byte_s, LEAST_BYTE_S))
        self._gram = [0.0, 0.0, 0.0]
        self._target = [0.0, 0.0]
        self._scale = SCALE_START
        self.learned = 0

    def learn(self, predicted_s: float, size: int, calls: int, measured_s: float) -> bool:
        """Take a copy in; False if it is an outlier."""
        ratio = abs(math.log(measured_s / predicted_s))
        limit = REJECT_BEYOND * self._scale
        self._scale = max(SCALE_LEAST, self._scale + SCALE_RATE * (min(ratio, limit) - self._scale))
        if ratio > limit:
            return False
        weight = 1 / max(measured_s, predicted_s)
        row = (calls * self._units[0] * weight, size * self._units[1] * weight)
        goal = measured_s * weight
        old = self._gram
        self._gram = [
            FORGETTING * old[0] + row[0] * row[0],
            FORGETTING * old[1] + row[0] * row[1],
            FORGETTING * old[2] + row[1] * row[1],
        ]
        self._target = [FORGETTING * past + part * goal for past, part in zip(self._target, row, strict=True)]
        self.learned += 1
        return True

    def solve(self) -> LinkModel:
        calls, mixed, sizes = self._gram
        # The pull keeps the ratio of the terms, not their size: a link ten times slower is slower in both.
        scale = sum(self._target) / ((calls + 2 * mixed + sizes) or 1.0)
        values = nnls(
            [[calls * (1 + PULL), mixed], [mixed, sizes * (1 + PULL)]],
            [self._target[0] + PULL * calls * scale, self._target[1] + PULL * sizes * scale],
        )
        # A byte always takes some time: budgets divide by it.
        return LinkModel(call_s=values[0] * self._units[0], byte_s=max(values[1] * self._units[1], LEAST_BYTE_S))


class OnlineTransfer:
    """A transfer model that follows the link. `model` is replaced, never changed."""

    def __init__(self, preset: TransferModel) -> None:
        self.model = preset
        """The preset until `LEAST_COPIES` copies of a direction were learned from, then the fit."""
        self.rejected = 0
        """Copies not learned from: outliers, and those without bytes or a usable time."""
        self._fits = {direction: _LinkFit(preset.link(direction)) for direction in Direction}
        self._log_both_busy = math.log(preset.both_busy)

    def observe(
        self, direction: Direction, *, size: int, calls: int, measured_s: float, both_busy: bool = False
    ) -> None:
        """Learn from a finished copy.

        Args:
            size: bytes moved.
            calls: calls it took.
            measured_s: from its start on the link to its end, without time spent waiting behind other copies.
            both_busy: copies ran the other way for most of that time.
        """
        if size <= 0 or calls <= 0 or not 0 < measured_s < math.inf:
            self.rejected += 1
            return
        fit = self._fits[direction]
        predicted_s = max(self.model.link(direction).copy_s(size, calls), LEAST_CALL_S)
        if both_busy and fit.learned >= LEAST_COPIES:
            self._learn_both_busy(measured_s / predicted_s)
            return
        alone_s = measured_s / (self.model.both_busy if both_busy else 1.0)
        if not fit.learn(predicted_s, size, calls, alone_s):
            self.rejected += 1
        elif fit.learned >= LEAST_COPIES:
            link = fit.solve()
            self.model = msgspec.structs.replace(self.model, **{direction.value: link})

    def _learn_both_busy(self, ratio: float) -> None:
        if not 1 / MOST_BOTH_BUSY <= ratio <= MOST_BOTH_BUSY:
            self.rejected += 1
            return
        self._log_both_busy += (1 - FORGETTING) * (math.log(ratio) - self._log_both_busy)
        self.model = msgspec.structs.replace(self.model, both_busy=max(1.0, math.exp(self._log_both_busy)))
