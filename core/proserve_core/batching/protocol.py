"""The seam between policies and whatever runs an engine."""

from typing import Protocol

from proserve_core.batching.state import BatchPlan, EngineState


class BatchingPolicy(Protocol):
    """Chooses what runs in the next engine step. Deterministic: the same sequence of states gives the same plans.

    Every implementation passes tests/conformance/batching: entries fit `limits` and the blocks that are free after the
    plan's preemptions, only residents are preempted, no request is both run and preempted, the state is not changed,
    and a state with runnable work never yields an empty plan.
    """

    def plan(self, state: EngineState) -> BatchPlan:
        """Plan the next step."""
        ...
