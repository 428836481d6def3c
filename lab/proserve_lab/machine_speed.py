"""How fast a machine was while it ran an engine, as a factor on step times that changes with time.

A machine that is shared, if only with neighbours on the host of a virtual one, computes the same step in times that
differ by a fifth from one second to the next: caches and memory are not its own. Near saturation that decides how a
queue grows. It has nothing to do with how well steps are modelled or scheduling is simulated, so a simulation that is
compared with an engine gets the speed that the engine had, averaged over `WINDOW_S`: enough steps that what is left is
the machine and not the step.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from proserve_core.latency import LatencyModel
from proserve_core.latency.step_log import LoggedStep
from proserve_core.replica import Replica, StartedStep

WINDOW_S = 2.0
"""Some 25 long steps of an engine on a CPU."""


class MachineSpeed:
    """Measured over predicted time of an engine's steps, waiting for copies apart, around any moment."""

    def __init__(self, model: LatencyModel, steps: Sequence[LoggedStep]) -> None:
        """`steps` in the order in which they ended; without any the machine was as fast as `model` says."""
        self._middles_s = [step.ended_s - step.wall_s / 2 for step in steps]
        self._work_s = list(accumulate((step.work_s for step in steps), initial=0.0))
        self._predicted_s = list(accumulate((model.step_s(step.work) for step in steps), initial=0.0))

    def factor(self, at_s: float) -> float:
        """What step times are to be multiplied with at this time on the steps' clock; 1 where no step was near."""
        first = bisect_left(self._middles_s, at_s - WINDOW_S / 2)
        end = bisect_right(self._middles_s, at_s + WINDOW_S / 2)
        predicted_s = self._predicted_s[end] - self._predicted_s[first]
        return (self._work_s[end] - self._work_s[first]) / predicted_s if predicted_s > 0 else 1.0


class TimedReplica(Replica):
    """A replica that says when its present step began, for what depends on time beside it."""

    began_s = 0.0

    def begin_step(self, now_s: float) -> StartedStep | None:
        self.began_s = now_s
        return super().begin_step(now_s)
