"""Conservation of work: what a simulation charged is what its requests needed, step by step.

The audit does not believe the replica. It follows each request's progress from the plans alone, works out what a step
has to do and how long that takes by the latency model, and compares: with the duration that was charged, with the
tokens that came out, and at the end with the lengths of the requests. A replica that charges too little, skips work,
does it twice or invents a token is caught in the step in which it happens.
"""

import math
from collections.abc import Sequence

from proserve_core.latency import LatencyModel
from proserve_core.replica import Emission, Replica, StartedStep
from proserve_lab.simulation.workload import SimulatedRequest


class ConservationError(RuntimeError):
    """Work was lost or invented: a bug in the replica or in the simulator."""


class _Progress:
    """One request as the audit knows it."""

    __slots__ = ("computed", "prompt", "total")

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt
        self.total = prompt
        """Prompt and emitted tokens, those of the running step included."""
        self.computed = 0
        """Tokens in the cache once the running step has ended."""


class WorkAudit:
    """Checks the steps of one replica as they happen."""

    def __init__(self, name: str, latency: LatencyModel) -> None:
        self._name = name
        self._latency = latency
        self._requests: dict[str, _Progress] = {}
        self._due: list[str] = []
        self._finished_tokens = 0
        self.busy_s = 0.0
        self.computed_tokens = 0
        """New tokens of all steps."""
        self.recomputed_tokens = 0
        """Those whose result was lost with a request's blocks, so that they were computed again."""

    def submitted(self, request: SimulatedRequest) -> None:
        """The replica took a request."""
        self._requests[request.id] = _Progress(request.prompt_tokens)

    def started(self, step: StartedStep) -> None:
        """A step began.

        Raises:
            ConservationError: its duration is not that of the work it does.
        """
        requests = self._requests
        for request_id in step.plan.preempt:
            self.recomputed_tokens += requests[request_id].computed
            requests[request_id].computed = 0
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
        needed_s = self._latency.sums_s(tokens, attention, context, len(step.plan.entries))
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
        for request_id in [emission.id for emission in emissions if emission.finished]:
            # The last token comes out but is not computed: nothing follows it.
            self._finished_tokens += self._requests.pop(request_id).total - 1

    def check_end(self, replica: Replica) -> None:
        """All requests are done.

        Raises:
            ConservationError: requests or blocks are left, or more or less was computed than the lengths ask for.
        """
        if replica.pending or replica.free_blocks != replica.limits.blocks:
            raise ConservationError(
                f"{self._name}: {replica.pending} requests left, {replica.free_blocks} of {replica.limits.blocks} "
                "blocks free at the end"
            )
        needed = self._finished_tokens + self.recomputed_tokens
        if self.computed_tokens != needed:
            raise ConservationError(
                f"{self._name}: {self.computed_tokens} tokens were computed; prompts, outputs and what was lost by "
                f"preemption are {needed}"
            )
