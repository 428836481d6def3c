"""One decision about one request, with its reasons: those of the resources and those of the policy's order."""

from enum import StrEnum
from functools import cached_property

import msgspec

from proserve_core.batching.explain.orders import standing
from proserve_core.batching.explain.takers import takers
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.state import BatchPlan, EngineState, Reason, RequestState


class Decision(StrEnum):
    """What a step does with a request. Closed list."""

    RUNS = "runs"
    WAITS = "waits"
    """Not resident; holds neither blocks nor a sequence slot."""
    PAUSES = "pauses"
    """Resident, but not in this step."""
    LOSES_BLOCKS = "loses its blocks"


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request ran, waited or lost its blocks in one step."""

    age_s: float
    """Since the request's arrival."""
    decision: Decision
    reason: str
    """What limited it."""
    tokens: int
    """New tokens that it gets in the step."""
    pending_tokens: int
    """Tokens to compute before its next token."""
    group: str = ""
    """Part of the policy's order that it is in."""
    figures: dict[str, float] = {}
    """What its place in the order comes from; times end in `_s`."""
    position: int | None = None
    """1-based among the residents and those admitted; None when the step ended before its turn."""
    taken_by: str | None = None
    """Who took the blocks or the slot; the request itself when nobody behind it was left to take from."""

    def sentence(self) -> str:
        """One line for people."""
        parts = [f"{self.decision}: {self.reason}" if self.decision is not Decision.RUNS else str(self.decision)]
        if self.tokens:
            parts.append(f"{self.tokens} of {self.pending_tokens} pending tokens")
        if self.taken_by is not None:
            parts.append(f"taken by {self.taken_by}")
        if self.group:
            parts.append(self.group if self.position is None else f"{self.group}, place {self.position}")
        parts += [f"{name} {value:.4g}" for name, value in self.figures.items()]
        return "; ".join(parts)


class ExplainedStep:
    """A plan that can be asked about until it is applied.

    Args:
        policy: made `plan` from `state`, and no other since.
    """

    def __init__(self, policy: BatchingPolicy, state: EngineState, plan: BatchPlan) -> None:
        self._policy, self._state, self._plan = policy, state, plan

    def explain(self, request: RequestState) -> Explanation:
        """Why the plan treats a request of the state as it does."""
        plan = self._plan
        place = self._place(request.id)
        if place is not None and place < len(plan.entries):
            decision, reason, tokens = Decision.RUNS, Reason.SCHEDULED, plan.entries[place].tokens
        elif request.id in plan.preempt:
            decision, reason, tokens = Decision.LOSES_BLOCKS, Reason.PREEMPTED, 0
        else:
            decision = Decision.PAUSES if request.resident else Decision.WAITS
            reason, tokens = plan.waits.get(request.id, plan.rest), 0
        stands = standing(self._policy, self._state, request)
        return Explanation(
            # An emulator that is behind plans for moments that are over.
            age_s=max(0.0, self._state.now_s - request.arrival_s),
            decision=decision,
            reason=reason,
            tokens=tokens,
            pending_tokens=request.pending_tokens,
            group=stands.group,
            figures=stands.figures,
            position=None if place is None else place + 1,
            taken_by=self._takers[request.id] if decision is Decision.LOSES_BLOCKS else None,
        )

    def _place(self, request_id: str) -> int | None:
        """In the plan's order. A few are asked about, so a search is cheaper than an index of all places."""
        try:
            return self._plan.order.index(request_id)
        except ValueError:
            return None

    @cached_property
    def _takers(self) -> dict[str, str]:
        return takers(self._state, self._plan)
