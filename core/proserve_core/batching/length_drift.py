"""Whether outputs still end as foreseen: a test for sudden changes, band of prompt lengths by band.

Source: CUSUM (Page 1954) on likelihood ratios, with Lorden's bound (1971) on false alarms.

If hazards are right, the hazard that an output has summed up when it ends (its age in ends, `-log survival`) has an
exponential distribution with mean 1, whatever its length. If from some request on outputs end `r` times as often as
foreseen, the log likelihood ratio of that against no change is `log r` for each end and `1 - r` for each unit of age.
For both directions, r = `RATIO` and r = 1 / `RATIO`, the sum is kept, but never below 0: it is then the ratio for the
moment of change that is most likely. Running outputs count with the age that they have reached, so outputs that have
become longer are noticed before any of them ends.

Each sum has a mean of at least e^h outputs between false alarms with the threshold h. There are two, so
h = log(2 * `FALSE_ALARM_OUTPUTS`) gives at most one in so many outputs of a band. When all become k times shorter, an
alarm takes about h / (log 2 - 1 / k) outputs (k = 5: 29), when they become as much longer, 18. Tables
need not be exact: only a mean age below 0.7 or above 1.4 adds up in the end.

Beyond age `OLDEST`, which one output in 20 reaches, an output is not followed (its end is censored): how long the
longest are is what tables know least about.
"""

from math import log

import numpy as np

from proserve_core.batching.output_bins import Column, Index

RATIO = 2.0
"""Outputs that end so many times as often, or as rarely, are other outputs."""
FALSE_ALARM_OUTPUTS = 1_000_000
"""A day's at 12 a second. One in fewer would do for independent outputs; those of real traffic are not quite."""
OLDEST = 3.0
_THRESHOLD = log(2 * FALSE_ALARM_OUTPUTS)
_RATIOS = np.array([[RATIO], [1 / RATIO]])


class LengthDrift:
    """Two sums for each of `bands` bands."""

    def __init__(self, bands: int) -> None:
        self._sums = np.zeros((2, bands))

    def aged(self, bands: Index, since: Column, until: Column) -> None:
        """Outputs of these bands have gone from one age to another."""
        ages = np.maximum(np.minimum(until, OLDEST) - np.minimum(since, OLDEST), 0.0)
        self._add((1 - _RATIOS) * np.bincount(bands, ages, self._sums.shape[1]))

    def ended(self, band: int, age: float) -> bool:
        """An output of the band has ended at this age. Whether outputs have changed; if so, all begins anew."""
        if age >= OLDEST:
            return self._alarm()
        ends = np.zeros_like(self._sums)
        ends[:, band] = np.log(_RATIOS[:, 0])
        self._add(ends)
        return self._alarm()

    def _add(self, ratios: Column) -> None:
        np.maximum(self._sums + ratios, 0.0, out=self._sums)

    def _alarm(self) -> bool:
        if self._sums.max() < _THRESHOLD:
            return False
        self._sums[:] = 0.0
        return True
