"""Batching policies that tests put in an engine's place of its own."""

import random
from collections.abc import Callable

from proserve_core.batching import BatchPlan, EngineState, RequestState
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
