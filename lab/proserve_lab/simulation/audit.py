"""Conservation of work: what a simulation charged is what its requests needed, step by step.

The audit does not believe the replica. It follows each request's progress from the plans alone, works out what a step
has to do and how long that takes by the latency model, and compares: with the duration that was charged, with the
tokens that came out, and at the end with the lengths of the requests. A replica that charges too little, skips work,
does it twice or invents a token is caught in the step in which it happens.
"""

import math
from collections.abc import Sequence

from proserve_core.replica import Emission, Replica, StartedStep
from proserve_core.replica_kv import HostTier
from proserve_lab.simulation.host_audit import HostAudit, HostError
from proserve_lab.simulation.workload import SimulatedRequest


class ConservationError(RuntimeError):
    """Work was lost or invented: a bug in the replica or in the simulator."""


class _Progress:
    """One request as the audit knows it."""

    __slots__ = ("computed", "prompt", "total")

    def __init__(self, prompt: int, cached: int) -> None:
        self.prompt = prompt
        self.total = prompt
        """Prompt and emitted tokens, those of the running step included."""
        self.computed = cached
        """Tokens in the cache once the running step has ended."""


class WorkAudit:
    """Checks the steps of one replica as they happen."""

    def __init__(self, name: str, replica: Replica) -> None:
        self._name = name
        self._latency = replica.latency
        self._host = (
            HostAudit(replica.kv_host, limits=replica.limits, latency=replica.latency) if replica.kv_host else None
        )
        self._requests: dict[str, _Progress] = {}
        self._due: list[str] = []
        self._finished_tokens = 0
        self._cached_tokens = 0
        self.busy_s = 0.0
        self.computed_tokens = 0
        """New tokens of all steps."""
        self.recomputed_tokens = 0
        """Those whose result was lost with a request's blocks and did not come back: they were computed again."""

    def submitted(self, request: SimulatedRequest, cached_tokens: int = 0) -> None:
        """The replica took a request and holds the first `cached_tokens` of its prompt."""
        self._requests[request.id] = _Progress(request.prompt_tokens, cached_tokens)
        self._cached_tokens += cached_tokens

    def started(self, step: StartedStep) -> None:
        """A step began.

        Raises:
            ConservationError: its duration is not that of the work it does, or blocks came from nowhere.
        """
        requests = self._requests
        restored: dict[str, int] = {}
        if self._host is not None and step.copies is not None:
            try:
                self._host.flushed(step.copies, lambda request_id: requests[request_id].computed)
                restored = self._host.restored(step.copies)
            except HostError as error:
                raise ConservationError(f"{self._name}: {error}") from error
        for request_id in step.plan.preempt:
            self.recomputed_tokens += requests[request_id].computed
            requests[request_id].computed = 0
        for request_id, back in restored.items():
            self.recomputed_tokens -= back
            requests[request_id].computed = back
        tokens = attention = context = 0
        due = self._due = []
        for entry in step.plan.entries:
            request_id, new = entry.id, entry.tokens
            request = requests[request_id]
            computed, total = request.computed, request.total
            tokens += new
            request.computed = computed + new
            if computed + new == total:
                due.append(request_id)
                request.total = total + 1
                if new == 1 and total > request.prompt:
                    context += computed
                    continue
            attention += new * (new + 2 * computed)
        if not step.plan.entries:  # it waits for a copy to end
            return
        needed_s = self._latency.sums_s(tokens, attention, context, len(step.plan.entries))
        if self._host is not None and step.copies is not None:
            needed_s = self._host.step_s(step.copies, needed_s)
        if not math.isclose(step.duration_s, needed_s, rel_tol=1e-9):
            raise ConservationError(
                f"{self._name}: a step of {tokens} tokens at {step.started_s:.3f} s was charged "
                f"{step.duration_s:.6f} s, its work takes {needed_s:.6f} s"
            )
        self.computed_tokens += tokens
        self.busy_s += step.duration_s

    def ended(self, emissions: Sequence[Emission]) -> None:
        """The step ended.

        Raises:
            ConservationError: the tokens are not those of the requests whose computation is complete.
        """
        emitted = [emission.id for emission in emissions]
        if emitted != self._due:
            lost, invented = set(self._due) - set(emitted), set(emitted) - set(self._due)
            raise ConservationError(
                f"{self._name}: a step emitted {len(emitted)} tokens and has computed {len(self._due)}; "
                f"lost: {', '.join(sorted(lost)) or 'none'}; invented: {', '.join(sorted(invented)) or 'none'}"
            )
        finished = [emission.id for emission in emissions if emission.finished]
        if self._host is not None:
            self._host.ended(finished)
        for request_id in finished:
            # The last token comes out but is not computed: nothing follows it.
            self._finished_tokens += self._requests.pop(request_id).total - 1

    def check_end(self, replica: Replica) -> None:
        """All requests are done.

        Raises:
            ConservationError: requests or blocks are left, or more or less was computed than the lengths ask for.
        """
        draining = 0 if replica.host is None else replica.host.ledger.draining
        if replica.pending or replica.free_blocks + draining != replica.limits.blocks:
            raise ConservationError(
                f"{self._name}: {replica.pending} requests left, {replica.free_blocks} of {replica.limits.blocks} "
                f"blocks free at the end, {draining} more when copies end"
            )
        needed = self._finished_tokens - self._cached_tokens + self.recomputed_tokens
        if self.computed_tokens != needed:
            raise ConservationError(
                f"{self._name}: {self.computed_tokens} tokens were computed; prompts, outputs and what was lost by "
                f"preemption, less what was cached, are {needed}"
            )
        if self._host is not None and replica.host is not None:
            self._check_copies(self._host, replica.host)

    def _check_copies(self, audited: HostAudit, host: HostTier) -> None:
        totals, arriving = host.totals, host.arriving_blocks
        mine = (audited.copied_blocks, audited.restored_blocks, audited.evicted_blocks)
        theirs = (totals.offloaded_blocks + arriving, totals.restored_blocks, totals.evicted_blocks)
        # Blocks that come back only the second time were counted as to be computed again the first time.
        if mine != theirs or totals.recomputed_tokens < self.recomputed_tokens:
            raise ConservationError(
                f"{self._name}: blocks to the host, back and evicted are {mine}, the replica counts {theirs}; "
                f"{self.recomputed_tokens} tokens were computed again, the replica counts {totals.recomputed_tokens}"
            )
