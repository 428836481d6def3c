"""Measures how long a policy plans; the core itself has no clock."""

import time
from collections.abc import Callable

from proserve_core.batching import BatchingPolicy, BatchPlan, EngineState, RequestState
from proserve_core.batching.protocol import ObservesProgress


class TimedPolicy:
    """A batching policy that notes the duration of each plan, seconds."""

    def __init__(self, policy: BatchingPolicy, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` gives seconds: wall time, or `time.thread_time` where other work runs on the same cores."""
        self._policy = policy
        self._clock = clock
        self._observer = policy if isinstance(policy, ObservesProgress) else None
        self.durations_s: list[float] = []

    def plan(self, state: EngineState) -> BatchPlan:
        started_s = self._clock()
        plan = self._policy.plan(state)
        self.durations_s.append(self._clock() - started_s)
        return plan

    def ended(self, request: RequestState, *, finished: bool) -> None:
        """Passed on to a policy that wants to know."""
        if self._observer is not None:
            self._observer.ended(request, finished=finished)
