"""How well the online latency model follows an engine that is not what its calibration says.

The policy plans as always. Beside it a latency model that starts `OFF` too slow learns from each step, as the engine's
plug-in does, and both are judged by the steps' real times.
"""

from collections import deque

import msgspec

from proserve_core.batching import BatchingPolicy, BatchPlan, EngineState, RequestState
from proserve_core.batching.plan_work import plan_work
from proserve_core.batching.protocol import ObservesProgress
from proserve_core.latency import LatencyModel, StepWork
from proserve_core.latency.errors import ErrorStats, Stratum, error_stats, stratum_of
from proserve_core.latency.online import WINDOW, OnlineLatency

OFF = 1.15
"""Factor on all coefficients that the learning model starts with."""


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """Errors over the last steps of one kind."""

    kept: ErrorStats
    """Of the model that it started with."""
    learned: ErrorStats


class LatencyProbe:
    """Plans as the policy does, and lets a latency model learn from the steps."""

    def __init__(self, policy: BatchingPolicy, latency: LatencyModel) -> None:
        self._policy = policy
        self._start = LatencyModel(**{name: OFF * value for name, value in msgspec.structs.asdict(latency).items()})
        self._online = OnlineLatency(self._start)
        self._kept: dict[Stratum, deque[tuple[float, float]]] = {}
        self._running: tuple[float, StepWork, frozenset[str]] | None = None

    def plan(self, state: EngineState) -> BatchPlan:
        self._learn(state)
        plan = self._policy.plan(state)
        self._running = (
            state.now_s,
            plan_work(plan, state.requests.by_id),
            frozenset(entry.id for entry in plan.entries),
        )
        return plan

    def ended(self, request: RequestState, *, finished: bool) -> None:
        """Passed on to a policy that wants to know."""
        if isinstance(self._policy, ObservesProgress):
            self._policy.ended(request, finished=finished)

    def corrections(self) -> dict[str, Correction]:
        """By kind of step."""
        learned = self._online.errors()
        return {
            kind.value: Correction(kept=kept, learned=learned[kind])
            for kind, pairs in self._kept.items()
            if (kept := error_stats(pairs)) is not None
        }

    def _learn(self, state: EngineState) -> None:
        """The time since the last plan is its step's, unless the engine may have been idle in between."""
        if self._running is None:
            return
        started_s, work, ids = self._running
        measured_s = state.now_s - started_s
        if measured_s > 0 and not ids.isdisjoint(state.requests.by_id):
            pairs = self._kept.setdefault(stratum_of(work), deque(maxlen=WINDOW))
            pairs.append((self._start.step_s(work), measured_s))
            self._online.observe(work, measured_s)
