"""The share of Urgent over time: what slides in SlideBatching."""

import msgspec

from proserve_core.batching import BatchPlan, EngineState
from proserve_core.batching.slide_batching import SlideBatching

URGENT = ("urgent", "urgent decode", "starved")
"""Names of the policy's groups."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A second of a run."""

    second: int
    requests: float
    """In the engine, mean over its steps."""
    urgent_share: float
    """Of those."""


class UrgentProbe:
    """Plans as the policy does, and notes how many requests it took for urgent."""

    def __init__(self, policy: SlideBatching) -> None:
        self._policy = policy
        self._seconds: dict[int, list[tuple[int, int]]] = {}
        """By second: requests and urgent ones of each step."""

    def plan(self, state: EngineState) -> BatchPlan:
        plan = self._policy.plan(state)
        if self._policy.ranked is not None and state.requests:
            urgent = self._policy.ranked.ranking.count(*URGENT)
            self._seconds.setdefault(int(state.now_s), []).append((len(state.requests), urgent))
        return plan

    def timeline(self) -> tuple[Moment, ...]:
        """One entry for each second with steps, means over them."""
        return tuple(
            Moment(
                second=second,
                requests=round(sum(requests for requests, _ in steps) / len(steps), 2),
                urgent_share=round(sum(urgent / requests for requests, urgent in steps) / len(steps), 4),
            )
            for second, steps in sorted(self._seconds.items())
        )
