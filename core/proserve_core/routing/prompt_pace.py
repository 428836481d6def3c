"""How fast engines that do not rank may be given prompts: as fast as their decodes leave time for them.

Such an engine computes prompts as soon as it has them and lets its decodes wait meanwhile. So what it was given counts
as work that is done at the share of time that the decodes of the moment leave, even if it was done sooner: the time was
taken from decodes, which catch up meanwhile.
"""

import math
from collections.abc import Sequence

import numpy as np

from proserve_core.routing.gain_left import Column

TIGHT_FOR_S = 10.0
"""How long an objective counts after a request had it."""


class Tightest:
    """The tightest objective of the requests that came lately."""

    def __init__(self) -> None:
        self.least_s = math.inf
        self._at_s = -math.inf

    def saw(self, objective_s: float, now_s: float) -> None:
        """A request has this one."""
        if objective_s <= self.least_s or now_s > self._at_s + TIGHT_FOR_S:
            self.least_s, self._at_s = objective_s, now_s


class PromptPace:
    """Prompt work of each engine that is still to be waited for."""

    def __init__(self) -> None:
        self._names: Sequence[str] = ()
        self._work_s = np.zeros(0)
        """Engine time, by engine in the order of `_names`."""
        self._at_s = 0.0

    def busy_s(self, names: Sequence[str], share: Column, now_s: float) -> Column:
        """How long from now each engine is given nothing; `share` is the part of its time left for prompts."""
        if names is not self._names:
            before = dict(zip(self._names, self._work_s.tolist(), strict=True))
            self._names, self._work_s = names, np.array([before.get(name, 0.0) for name in names])
        if now_s > self._at_s:
            self._work_s = np.maximum(0.0, self._work_s - share * (now_s - self._at_s))
            self._at_s = now_s
        return self._work_s / share

    def gave(self, place: int, prefill_s: float) -> None:
        """The engine at this place was given a prompt that takes it so long, since `busy_s` was asked."""
        self._work_s[place] += prefill_s
