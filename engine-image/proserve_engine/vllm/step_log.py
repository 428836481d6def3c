"""Writes the engine's steps to a file while it runs: `proserve_core.latency.step_log` has the format.

Times of a step are told by two clocks over the same span (`StepClock` has the rule): the wall, and the CPU time of the
engine's thread.
"""

import time
from pathlib import Path
from typing import Any

from proserve_core.latency import StepWork
from proserve_core.latency.step_log import LoggedStep, encode_step
from proserve_engine.vllm.steps import FinishedStep, StepClock


class StepLog:
    """A file that grows by a line per step. All methods are called from the engine's thread."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: a reader sees each step when it is done, and an engine that is killed loses none.
        self._file = path.open("ab", buffering=0)
        self._cpu = StepClock()
        self._began_s = 0.0

    def planning(self) -> None:
        """The planning of a step begins."""
        self._began_s = time.thread_time()

    def scheduled(self, output: Any, work: StepWork) -> None:
        """The step starts."""
        self._cpu.scheduled(output, work, predicted_s=0.0, began_s=self._began_s)

    def result(self, output: Any, step: FinishedStep | None, *, copies_s: float) -> None:
        """Its result is in; `step` is what the wall clock says, `copies_s` for how long it waited for copies."""
        cpu = self._cpu.result(output, time.thread_time())
        if step is not None and cpu is not None:
            logged = LoggedStep(
                work=step.work,
                predicted_s=step.predicted_s,
                wall_s=step.duration_s,
                cpu_s=cpu.duration_s,
                copies_s=copies_s,
                ended_s=time.monotonic(),
            )
            self._file.write(encode_step(logged))

    def idle(self) -> None:
        """Nothing is left to do."""
        self._cpu.idle()

    def close(self) -> None:
        self._file.close()
