"""How many engines a pool should have now: its `replicas`, or what its gain says (`proserve_core.scaling`).

The number lives in the Deployment and since when engines are missing in the pool's status, so that another operator
process goes on from there. Messages of conditions say
nothing that changes all the time: each change is a write.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from proserve_core.pools import EnginePool
from proserve_core.resources.conditions import Reason
from proserve_core.scaling import Decision, Sample, ScalingState, Verdict, capacity_loss, decide
from proserve_operator.conditions import Condition, false_for_s
from proserve_operator.desired import start_deadline_s
from proserve_operator.gain_window import Mark
from proserve_operator.names import qualified_name
from proserve_operator.reports import Reports
from proserve_operator.store import Key

RECENT_BUCKETS = 2
"""Minutes of gain that one decision looks at."""
WAKE_S = 2.0
"""How often it is looked for requests that wait for the first engine."""
SETTLE_S = 120.0
"""After the first engine is ready requests end that waited for it: what they lost says nothing about its capacity."""
TOLD_S = 600.0
"""How long the condition tells of the last change."""

_QUIET = {
    Verdict.STEADY: (Reason.STEADY, "as many engines as the gain needs"),
    Verdict.STARTING: (Reason.STEADY, "nothing is decided while engines start"),
    Verdict.LATE: (Reason.SOME_ENGINES_MISSING, "engines did not start in time; none is added beside them"),
    Verdict.AT_MAXIMUM: (Reason.AT_MAXIMUM, "too much gain is lost, with as many engines as there may be"),
    Verdict.ASLEEP: (Reason.SCALED_TO_ZERO, "the first request that comes starts an engine and waits for it"),
    Verdict.BLIND: (Reason.NO_REPORT, "no gateway reports the pool's gain"),
    Verdict.HELD: (Reason.GATEWAY_SILENT, "one engine less would do, but not all gateways report, so none goes"),
}
_HINDERED = (Verdict.BLIND, Verdict.LATE, Verdict.HELD)
_CHANGES = {Verdict.UP: Reason.SCALED_UP, Verdict.DOWN: Reason.SCALED_DOWN}


class _Memory(msgspec.Struct):
    state: ScalingState
    decision: Decision | None = None
    """The newest, followed or not."""
    changes: bool = False
    """Whether it is another number than there was."""
    mark: Mark | None = None
    """Gain before it is of another number of engines and says nothing about this one."""
    came: int | None = None
    """Requests that had ended at the last sample."""
    settles_s: float | None = None
    """The engine came when there was none, and until then what is lost counts for nothing."""
    told: Condition | None = None
    """The last change."""
    told_s: float = 0.0


class PoolScaling:
    """Decides for all pools, and remembers what stabilises the decisions."""

    def __init__(
        self, reports: Reports, *, clock: Callable[[], float], wall_clock: Callable[[], float], every_s: float
    ) -> None:
        self._reports = reports
        self._clock = clock
        self._wall_clock = wall_clock
        self._every_s = every_s
        self._memories: dict[Key, _Memory] = {}

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        self._memories.pop(key, None)

    def decide(
        self, key: Key, pool: EnginePool, deployment: Mapping[str, Any] | None, status: Mapping[str, Any]
    ) -> tuple[int, float | None]:
        """Engines, and after how many seconds to decide again. `followed` tells that it was done. `status` is the
        pool's."""
        if pool.scaling is None:
            self.forget(key)
            return pool.replicas, None
        memory = self._memories.setdefault(key, _Memory(ScalingState()))
        sample = self._sample(memory, pool, deployment, status)
        memory.decision = decision = decide(pool.scaling, memory.state, sample)
        memory.changes = decision.engines != sample.engines
        if not memory.changes:
            # Else it stands until it is followed: an API server that refuses must not make the wish begin anew.
            memory.state = decision.state
        return decision.engines, self._every_s if decision.engines else min(WAKE_S, self._every_s)

    @property
    def may_wake(self) -> bool:
        """Whether requests may wait somewhere for a first engine."""
        return any(each.decision is not None and each.decision.engines == 0 for each in self._memories.values())

    def followed(self, key: Key) -> None:
        """The number of the last decision is in the Deployment."""
        memory = self._memories.get(key)
        if memory is None or memory.decision is None or not memory.changes:
            return
        memory.changes = False
        memory.state = memory.decision.state
        memory.settles_s = math.inf if memory.decision.verdict is Verdict.UP and memory.decision.engines == 1 else None
        memory.mark = self._reports.window.mark(_subject(key))
        reason = Reason.SCALED_TO_ZERO if memory.decision.engines == 0 else _CHANGES.get(memory.decision.verdict)
        if reason is not None:
            memory.told, memory.told_s = _scaling(True, reason, memory.decision.message), self._clock()

    def _sample(
        self, memory: _Memory, pool: EnginePool, deployment: Mapping[str, Any] | None, status: Mapping[str, Any]
    ) -> Sample:
        there = deployment or {}
        window, subject = self._reports.window, _subject((pool.namespace, pool.name))
        engines = there.get("spec", {}).get("replicas", pool.replicas)
        ready = there.get("status", {}).get("readyReplicas", 0)
        recent = window.recent(subject, buckets=RECENT_BUCKETS, since=memory.mark)
        loss = capacity_loss(recent)
        if memory.settles_s == math.inf and ready >= engines:
            memory.settles_s = self._clock() + SETTLE_S
        if memory.settles_s is not None and self._clock() < memory.settles_s:
            loss = 0.0
            memory.mark = window.mark(subject)
        elif ready < engines and memory.told is not None:
            # What is lost until the engine is there, it could not prevent.
            memory.mark = window.mark(subject)
        before, memory.came = memory.came, window.came(subject)
        return Sample(
            at_s=self._clock(),
            engines=engines,
            ready=ready,
            loss=loss if window.reporting else None,
            loss_with_one_less=self._reports.loss_with_one_less(subject[1]),
            requests=self._reports.open_requests(subject[1]) + (0 if before is None else memory.came - before),
            all_gateways_tell=self._reports.silent == 0,
            not_ready_s=false_for_s("Complete", status, now_s=self._wall_clock()),
            start_limit_s=start_deadline_s(pool),
        )

    def condition(self, key: Key) -> Condition | None:
        """Why there are so many engines; None: the pool says it."""
        memory = self._memories.get(key)
        if memory is None or memory.decision is None:
            return None
        now_s, decision = self._clock(), memory.decision
        reason, message = _QUIET.get(decision.verdict, _QUIET[Verdict.STEADY])
        told = memory.told
        quiet = reason in (Reason.STEADY, Reason.SCALED_TO_ZERO)
        if told is not None and quiet and now_s - memory.told_s < TOLD_S:
            return told
        return _scaling(decision.verdict not in _HINDERED, reason, message)


def _subject(key: Key) -> tuple[str, str]:
    return "pool", qualified_name(*key)


def _scaling(status: bool, reason: Reason, message: str) -> Condition:
    return Condition(type="ScalingActive", status=status, reason=reason, message=message)
