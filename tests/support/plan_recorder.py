"""Watches a ProServe scheduler: what the policy planned for each step, and what vLLM then did.

Nothing of the product is replaced: the policy's `plan` and the scheduler's `schedule` and `_preempt_request` are
called through, and what goes in and out is written down. Under `fcfs` the plug-in leaves scheduling to vLLM; there a
policy is asked on the side, in the same state, for what it would have planned.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proserve_core.batching import BatchPlan, EngineState
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.latency.calibrations import load_calibration

Entries = tuple[tuple[str, int], ...]
"""Request id and tokens, in order."""


@dataclass(frozen=True, kw_only=True)
class RecordedStep:
    """One call of `schedule()`."""

    planned: Entries
    """What should run. vLLM walks its residents before its queue: planned residents come first, then who is admitted,
    each part in the plan's order. Empty without a plan."""
    victims: tuple[str, ...]
    ran: Entries
    preempted: tuple[str, ...]
    waiting: int
    """Requests that are not resident and do not run."""
    decodes: int
    prompts: int
    chunks: int
    """Planned parts of prompts that are not the last ones."""
    ending: int
    """Requests that hold blocks and are out of the planner's sight, because their last token is in flight."""

    @property
    def difference(self) -> str | None:
        """Where vLLM did something else than planned."""
        if self.ran != self.planned:
            return f"planned {self.planned}, ran {self.ran}"
        if self.preempted != self.victims:
            return f"planned victims {self.victims}, preempted {self.preempted}"
        return None


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """A request when its step was planned; the engine keeps one state per request and changes it later."""

    resident: bool
    decode: bool
    pending_tokens: int


class PlanRecorder:
    """Records the steps of `scheduler` from now on.

    Args:
        alter: changes a plan after it was recorded and before the engine gets it: a plan that is not followed.
        shadow: asked in each step for the plan to compare with, where the plug-in leaves steps to vLLM.
    """

    def __init__(
        self,
        scheduler: Any,
        *,
        alter: Callable[[BatchPlan], BatchPlan] = lambda plan: plan,
        shadow: BatchingPolicy | None = None,
    ) -> None:
        self.steps: list[RecordedStep] = []
        self._adapter = scheduler._proserve.adapter
        self._alter, self._shadow = alter, shadow
        self._inner_plan = self._adapter._policy.plan
        self._inner_schedule = scheduler.schedule
        self._inner_preempt = scheduler._preempt_request
        self._plan = BatchPlan()
        self._stages: dict[str, _Stage] = {}
        self._preempted: list[str] = []
        self._adapter._policy.plan = self._plan_recorded
        scheduler.schedule = self._schedule_recorded
        scheduler._preempt_request = self._preempt_recorded

    @property
    def differences(self) -> list[str]:
        return [f"step {number}: {step.difference}" for number, step in enumerate(self.steps) if step.difference]

    def _plan_recorded(self, state: EngineState) -> BatchPlan:
        plan: BatchPlan = self._inner_plan(state)
        self._note(state, plan)
        return self._alter(plan)

    def _schedule_recorded(self, *args: Any, **options: Any) -> Any:
        self._plan, self._stages = BatchPlan(), {}
        self._preempted.clear()
        if self._shadow is not None:
            state = self._state()
            self._note(state, self._shadow.plan(state))
        output = self._inner_schedule(*args, **options)
        self.steps.append(self._step(tuple(output.num_scheduled_tokens.items())))
        return output

    def _preempt_recorded(self, request: Any, *args: Any, **options: Any) -> None:
        self._preempted.append(request.request_id)
        self._inner_preempt(request, *args, **options)

    def _note(self, state: EngineState, plan: BatchPlan) -> None:
        self._plan = plan
        self._stages = {
            request.id: _Stage(
                resident=request.resident, decode=request.is_decode, pending_tokens=request.pending_tokens
            )
            for request in state.requests
        }

    def _state(self) -> EngineState:
        adapter = self._adapter
        adapter.refresh()
        return EngineState(
            now_s=time.monotonic(),
            requests=adapter.tracker.table,
            limits=adapter.limits,
            free_blocks=adapter.free_blocks,
            latency=load_calibration("cpu-tiny").latency,
        )

    def _step(self, ran: Entries) -> RecordedStep:
        stages = self._stages
        entries = [(entry.id, entry.tokens) for entry in self._plan.entries]
        runs = {request_id for request_id, _ in entries}
        return RecordedStep(
            planned=(
                *(entry for entry in entries if stages[entry[0]].resident),
                *(entry for entry in entries if not stages[entry[0]].resident),
            ),
            victims=self._plan.preempt,
            ran=ran,
            preempted=tuple(self._preempted),
            waiting=sum(not stage.resident and request_id not in runs for request_id, stage in stages.items()),
            decodes=sum(stages[request_id].decode for request_id in runs),
            prompts=sum(not stages[request_id].decode for request_id in runs),
            chunks=sum(tokens < stages[request_id].pending_tokens for request_id, tokens in entries),
            ending=len(self._adapter.tracker.hidden),
        )
