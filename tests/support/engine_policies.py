"""Batching policies that tests put in an engine's place of its own."""

import random
from collections.abc import Callable

from proserve_core.batching import BatchPlan, EngineState, PlanEntry, RequestState
from proserve_core.batching.fill import FillOptions, fill


class ScriptedPolicy:
    """Plans what a function says, and remembers."""

    def __init__(self, script: Callable[[EngineState], BatchPlan]) -> None:
        self._script = script
        self.plans: list[BatchPlan] = []

    def plan(self, state: EngineState) -> BatchPlan:
        self.plans.append(self._script(state))
        return self.plans[-1]


class RandomPolicy:
    """Valid plans of no sense whatever: any order, any chunks, pauses and preemptions. A function of its seed."""

    def __init__(self, seed: int, *, longest_s: float = 0.02) -> None:
        self._random = random.Random(seed)
        self._longest_s = longest_s
        self.plans: list[BatchPlan] = []

    def plan(self, state: EngineState) -> BatchPlan:
        draw = self._random
        order: list[RequestState] = list(state.requests)
        draw.shuffle(order)
        if draw.random() < 0.3:
            order.sort(key=lambda request: request.resident)
        plan = fill(
            state,
            order=order,
            residents=[request for request in order if request.resident],
            options=FillOptions(skip=draw.random() < 0.5, min_chunk=draw.choice((1, 1, 5)), waiting_preempts=True),
            budget_s=draw.uniform(0.0, self._longest_s),
        )
        self.plans.append(plan)
        return plan


class ChosenPolicy:
    """Runs whom it is told to run, as far as a step goes."""

    def __init__(self) -> None:
        self.paused: set[str] = set()
        self.victims: set[str] = set()
        """Residents that lose their blocks; they pause until they are told to run."""

    def preempt(self, request_id: str) -> None:
        """The request loses its blocks and waits."""
        self.victims.add(request_id)
        self.paused.add(request_id)

    def plan(self, state: EngineState) -> BatchPlan:
        victims = tuple(each.id for each in state.requests if each.resident and each.id in self.victims)
        self.victims.clear()
        running = [each for each in state.requests if each.id not in self.paused]
        entries, left = [], state.limits.max_step_tokens
        for each in running:
            tokens = min(each.pending_tokens, left)
            if tokens:
                entries.append(PlanEntry(each.id, tokens))
                left -= tokens
        return BatchPlan(entries=tuple(entries), preempt=victims)
