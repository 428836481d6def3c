"""The last decisions about the last requests, for whoever asks why.

Only what changes is noted: a request begins to wait, waits for another reason, is admitted, pauses for the first time,
loses its blocks. A step in which nothing of that happens costs a set operation on the ids that run. Steps with many
changes note `NOTED_PER_STEP` of them; those that have come are noted `NEW_PER_STEP` at a time, so that a burst makes no
plan slow.

Written by the thread that plans, read by any: what is kept about a request is replaced as a whole, never changed.
"""

from collections import deque
from collections.abc import Iterator, Mapping

from proserve_core.batching.explain.explanation import Decision, ExplainedStep, Explanation
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.request_table import RequestTable
from proserve_core.batching.state import BatchPlan, EngineState, Reason, RequestState

KEPT_REQUESTS = 4096
KEPT_DECISIONS = 10
"""Of each request: the first one and the last ones."""
NOTED_PER_STEP = 8
NEW_PER_STEP = 2
"""Of these, requests that begin to wait."""


class DecisionLog:
    """Decisions of one engine."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Explanation, ...]] = {}
        """By request, the one that was noted first at the front."""
        self._waiting: set[str] = set()
        """Requests in the engine that are not resident."""
        self._new: deque[str] = deque(maxlen=KEPT_REQUESTS)
        """Arrived, and nothing noted yet."""
        self._noted: Mapping[str, Reason] = {}
        """Who was left out of the step before, and why, when all of that is noted."""

    def arrived(self, request_id: str) -> None:
        """A request has come to the engine."""
        self._waiting.add(request_id)
        self._new.append(request_id)

    def ended(self, request_id: str) -> None:
        """A request has left the engine; what is known of it stays for a while."""
        self._waiting.discard(request_id)

    def note(self, policy: BatchingPolicy, state: EngineState, plan: BatchPlan) -> None:
        """Note what `plan`, just made by `policy` from `state` and not applied yet, changes."""
        admitted = self._waiting.intersection(plan.order)
        by_id = state.requests.by_id
        step = ExplainedStep(policy, state, plan)
        left = NOTED_PER_STEP
        noted: Mapping[str, Reason] = plan.waits
        for request_id in self._changed(state.requests, plan, admitted):
            self._keep(request_id, step.explain(by_id[request_id]))
            left -= 1
            if not left:
                noted = {}
                break
        self._noted = noted
        self._waiting -= admitted
        self._waiting.update(plan.preempt)

    def lost_blocks(self, request: RequestState, now_s: float) -> None:
        """The engine took a request's blocks although no plan said so."""
        self._waiting.add(request.id)
        self._noted = {}
        self._keep(
            request.id,
            Explanation(
                age_s=now_s - request.arrival_s,
                decision=Decision.LOSES_BLOCKS,
                reason="the engine ran out of KV blocks or kept a plan possible by it; no plan chose this request",
                tokens=0,
                pending_tokens=request.pending_tokens,
            ),
        )

    def decisions(self, request_id: str) -> dict[str, tuple[Explanation, ...]]:
        """What is kept about a request, oldest first, by the engine's id.

        Args:
            request_id: the engine's, or the part of it that whoever sent the request chose.
        """
        exact = self._kept.get(request_id)
        if exact is not None:
            return {request_id: exact}
        part = f"-{request_id}-"
        # list() of a dict is one step for other threads; iterating over it is not.
        return {i: kept for i in list(self._kept) if part in f"-{i}-" and (kept := self._kept.get(i)) is not None}

    def latest_ids(self, count: int) -> list[str]:
        """Requests of which something is kept, the newest first."""
        return list(self._kept)[: -count - 1 : -1]

    def __len__(self) -> int:
        return len(self._kept)

    def _changed(self, requests: RequestTable, plan: BatchPlan, admitted: set[str]) -> Iterator[str]:
        by_id = requests.by_id
        yield from plan.preempt
        yield from admitted
        noted = self._noted.get
        for request_id, reason in plan.waits.items():
            # Most pause for long: who is left out as in the step before costs no more than this.
            if noted(request_id) is reason or reason is Reason.PREEMPTED:
                continue
            if not self._known(request_id, reason):
                yield request_id
        for request_id in plan.order[len(plan.entries) :]:
            if request_id not in plan.waits and not self._known(request_id, plan.rest):
                yield request_id
        left = NEW_PER_STEP
        while self._new and left:
            request_id = self._new.popleft()
            if request_id in by_id and request_id not in admitted and request_id not in self._kept:
                left -= 1
                if requests.sees(request_id):
                    yield request_id
                else:
                    # Hidden from the policy, which knows no place for it: tried again.
                    self._new.append(request_id)

    def _known(self, request_id: str, reason: Reason) -> bool:
        """Whether this reason to wait or pause was noted since the request was last admitted or lost its blocks."""
        for decision in reversed(self._kept.get(request_id, ())):
            if decision.decision in (Decision.RUNS, Decision.LOSES_BLOCKS):
                return False
            if decision.reason == reason:
                return True
        return False

    def _keep(self, request_id: str, explanation: Explanation) -> None:
        kept = self._kept.get(request_id, ())
        if len(kept) == KEPT_DECISIONS:
            kept = kept[:1] + kept[2:]
        elif not kept and len(self._kept) == KEPT_REQUESTS:
            del self._kept[next(iter(self._kept))]
        self._kept[request_id] = (*kept, explanation)
