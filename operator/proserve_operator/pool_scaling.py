"""How many engines a pool should have now: its `replicas`, or what its gain says (`proserve_core.scaling`).

The number lives in the Deployment, so that another operator process goes on from it. Messages of conditions say
nothing that changes all the time: each change is a write.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from proserve_core.pools import EnginePool
from proserve_core.resources.conditions import Reason
from proserve_core.scaling import Decision, Sample, ScalingState, Verdict, capacity_loss, decide
from proserve_operator.conditions import Condition
from proserve_operator.names import qualified_name
from proserve_operator.reports import Reports
from proserve_operator.store import Key

RECENT_BUCKETS = 2
"""Minutes of gain that one decision looks at."""
TOLD_S = 600.0
"""How long the condition tells of the last change."""

_QUIET = {
    Verdict.STEADY: (Reason.STEADY, "as many engines as the gain needs"),
    Verdict.STARTING: (Reason.STEADY, "nothing is decided while engines start"),
    Verdict.AT_MAXIMUM: (Reason.AT_MAXIMUM, "too much gain is lost, with as many engines as there may be"),
    Verdict.BLIND: (Reason.NO_REPORT, "no gateway reports the pool's gain"),
}
_CHANGES = {Verdict.UP: Reason.SCALED_UP, Verdict.DOWN: Reason.SCALED_DOWN}


class _Memory(msgspec.Struct):
    state: ScalingState
    told: Condition | None = None
    """The last change."""
    told_s: float = 0.0


class PoolScaling:
    """Decides for all pools, and remembers what stabilises the decisions."""

    def __init__(self, reports: Reports, *, clock: Callable[[], float], every_s: float) -> None:
        self._reports = reports
        self._clock = clock
        self._every_s = every_s
        self._memories: dict[Key, _Memory] = {}

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        self._memories.pop(key, None)

    def decide(
        self, key: Key, pool: EnginePool, deployment: Mapping[str, Any] | None
    ) -> tuple[int, Condition | None, float | None]:
        """Engines, the condition that says why (None: the pool says it), and after how many seconds to decide again."""
        if pool.scaling is None:
            self.forget(key)
            return pool.replicas, None, None
        memory = self._memories.setdefault(key, _Memory(ScalingState()))
        decision = decide(pool.scaling, memory.state, self._sample(pool, deployment))
        memory.state = decision.state
        return decision.engines, self._condition(memory, decision), self._every_s

    def _sample(self, pool: EnginePool, deployment: Mapping[str, Any] | None) -> Sample:
        there = deployment or {}
        name = qualified_name(pool.namespace, pool.name)
        window = self._reports.window
        loss = capacity_loss(window.recent(("pool", name), buckets=RECENT_BUCKETS)) if window.reporting else None
        return Sample(
            at_s=self._clock(),
            engines=there.get("spec", {}).get("replicas", pool.replicas),
            ready=there.get("status", {}).get("readyReplicas", 0),
            loss=loss,
            loss_with_one_less=self._reports.loss_with_one_less(name),
        )

    def _condition(self, memory: _Memory, decision: Decision) -> Condition:
        now_s = self._clock()
        if (reason := _CHANGES.get(decision.verdict)) is not None:
            memory.told = _scaling(True, reason, decision.message)
            memory.told_s = now_s
        reason, message = _QUIET.get(decision.verdict, _QUIET[Verdict.STEADY])
        told = memory.told
        if told is not None and reason is Reason.STEADY and now_s - memory.told_s < TOLD_S:
            return told
        return _scaling(decision.verdict is not Verdict.BLIND, reason, message)


def _scaling(status: bool, reason: Reason, message: str) -> Condition:
    return Condition(type="ScalingActive", status=status, reason=reason, message=message)
