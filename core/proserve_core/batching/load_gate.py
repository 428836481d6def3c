"""Is the engine overloaded? A belief that is disproved slowly.

When every deadline can be met, the best order is by deadline and density only does harm. Whether they can be is easy to
see in a given moment, but in overload the first second of each burst looks feasible too, and deadline order then spends
the time on work of little worth (up to 2 points of gain lost). So overload is assumed until about half a minute has
looked feasible nearly all the time, and a few bad seconds bring the assumption back.
"""

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]

MEMORY_S = 10.0
TRUSTED = 0.05


class LoadGate:
    """Follows how often the engine could not have met all deadlines."""

    def __init__(self) -> None:
        self.overload = 1.0
        """Recent share of the time in which some deadline could not be met."""

    def note(self, feasible: bool, elapsed_s: float) -> bool:
        """Take in the state after `elapsed_s`; whether deadline order is safe now."""
        self.overload += min(1.0, max(0.0, elapsed_s) / MEMORY_S) * (float(not feasible) - self.overload)
        return feasible and self.overload <= TRUSTED


def prompts_feasible(slack_s: Column, prefill_s: Column, prefill_share: float) -> bool:
    """Whether prompts, served one after the other by deadline in `prefill_share` of the time, all come in time."""
    room_s = prefill_share * slack_s
    if np.count_nonzero(prefill_s > room_s):
        return False
    order = slack_s.argsort(kind="stable")
    return bool((prefill_s[order].cumsum() <= room_s[order]).all())
