"""The seam between policies and whatever runs an engine."""

from typing import Protocol, runtime_checkable

from proserve_core.batching.length_counts import LengthCounts
from proserve_core.batching.state import BatchPlan, EngineState, RequestState


class BatchingPolicy(Protocol):
    """Chooses what runs in the next engine step. Deterministic: the same sequence of states gives the same plans.

    Every implementation passes tests/conformance/batching: entries fit `limits` and the blocks that are free after the
    plan's preemptions, only residents are preempted, no request is both run and preempted, the state is not changed,
    and a state with runnable work never yields an empty plan.
    """

    def plan(self, state: EngineState) -> BatchPlan:
        """Plan the next step."""
        ...


@runtime_checkable
class ObservesProgress(Protocol):
    """A batching policy that learns from the requests' ends, such as from how long outputs are."""

    def ended(self, request: RequestState, *, finished: bool) -> None:
        """The request has left the engine; its `emitted_tokens` are final.

        Args:
            finished: its output is complete; False when it was cut off from outside (client gone, engine error).
        """
        ...


@runtime_checkable
class LearnsLengths(Protocol):
    """A batching policy that learns output lengths, which are worth keeping when the engine stops."""

    def learned(self) -> LengthCounts:
        """Everything it knows."""
        ...

    def recall(self, counts: LengthCounts) -> None:
        """Begin with what was known earlier. Before the first plan."""
        ...
