"""One engine as a pure state machine: what vLLM does with requests, blocks and steps, without a model and without time.

Time is an argument, so the emulator drives a replica with the wall clock and the simulator with a virtual one:
`begin_step(now)` plans and says how long the step takes, `complete_step(now)` hands out the tokens. Between the two,
requests may be submitted and aborted. The plan is checked before it is applied: a policy that plans more than the
engine has is an error, never a silent correction.

Follows vLLM where it matters for timing: a chunk that ends the prompt emits the first token; a preempted request loses
its blocks and is computed again, emitted tokens included, except for what the host has kept of it (`replica_kv`);
blocks are allocated per chunk. What a prefix cache would hold of a prompt is told by whoever submits it.
"""

from collections.abc import Sequence

import msgspec

from proserve_core.batching.explain import DecisionLog
from proserve_core.batching.fill import blocks_for
from proserve_core.batching.protocol import BatchingPolicy, ObservesProgress
from proserve_core.batching.request_table import RequestTable
from proserve_core.batching.state import BatchPlan, EngineLimits, EngineState, RequestState
from proserve_core.capacity import MAX_ROWS, CapacitySnapshot
from proserve_core.capacity_rows import class_totals, request_row
from proserve_core.clues import NO_CLUES, LengthClues
from proserve_core.kv_host import KvHost, StepCopies
from proserve_core.latency import LatencyModel
from proserve_core.objectives import ServiceTerms
from proserve_core.plan_check import CheckedStep, PlanError, check_plan
from proserve_core.replica_kv import HostTier


class SubmitError(ValueError):
    """A request that this engine can never serve."""


class StartedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step that runs until `started_s + duration_s`."""

    plan: BatchPlan
    started_s: float
    duration_s: float
    copies: StepCopies | None = None
    """Of blocks from and to the host; None where none are kept there."""


class Emission(msgspec.Struct, frozen=True, gc=False):
    """One token of a request."""

    id: str
    token: int
    """1-based index in the output."""
    finished: bool


class Replica:
    """One engine under one policy."""

    def __init__(
        self,
        *,
        policy: BatchingPolicy,
        policy_name: str,
        limits: EngineLimits,
        latency: LatencyModel,
        kv_host: KvHost | None = None,
        model: str = "simulated",
        engine_id: str = "replica",
        decisions: DecisionLog | None = None,
    ) -> None:
        self.limits = limits
        self.decisions = decisions
        """Told of every plan and who comes and goes; None: nobody will ask why."""
        self.latency = latency
        self._draining = False
        self.steps = 0
        self.preemptions = 0
        self._policy = policy
        self._observer = policy if isinstance(policy, ObservesProgress) else None
        self._policy_name = policy_name
        self._model = model
        self._engine_id = engine_id
        self._table = RequestTable()
        self.kv_host = kv_host
        """What keeps blocks of preempted requests; None: they are lost."""
        self._host = HostTier(kv_host, table=self._table, limits=limits, latency=latency) if kv_host else None
        self._output_tokens: dict[str, int] = {}
        self._aborted: set[str] = set()
        self._free_blocks = limits.blocks
        self._step: StartedStep | None = None
        self._changes = 0

    @property
    def busy(self) -> bool:
        """Whether a step is running."""
        return self._step is not None

    @property
    def pending(self) -> int:
        """Requests in the engine."""
        return len(self._table)

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def changes(self) -> int:
        """Sequence number of the snapshot of this moment."""
        return self._changes

    @property
    def free_blocks(self) -> int:
        return self._free_blocks

    @property
    def host(self) -> HostTier | None:
        """What `kv_host` keeps at present."""
        return self._host

    def submit(
        self,
        *,
        request_id: str,
        terms: ServiceTerms,
        arrival_s: float,
        prompt_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        clues: LengthClues = NO_CLUES,
    ) -> None:
        """Take a request. `output_tokens` is its true length, which the policy never sees.

        The KV of the first `cached_tokens` of its prompt is taken to be here already: it is not computed, unless the
        request is preempted, but takes blocks like the rest.

        Raises:
            SubmitError: it has no tokens, is here already, or could not be held even by an empty engine.
        """
        if prompt_tokens < 1 or output_tokens < 1:
            raise SubmitError(
                f"request {request_id!r}: prompt_tokens {prompt_tokens} and output_tokens {output_tokens} "
                "must be at least 1"
            )
        if request_id in self._table.by_id:
            raise SubmitError(f"request {request_id!r} is in the engine already: use another id")
        if not 0 <= cached_tokens < prompt_tokens:
            raise SubmitError(
                f"request {request_id!r}: cached_tokens {cached_tokens} must be from 0 to prompt_tokens - 1 "
                f"({prompt_tokens - 1}): the last token of a prompt is always computed"
            )
        blocks = blocks_for(prompt_tokens + output_tokens, self.limits.block_size)
        if blocks > self.limits.blocks:
            raise SubmitError(
                f"request {request_id!r}: {prompt_tokens} prompt and {output_tokens} output tokens need {blocks} "
                f"blocks and the engine has {self.limits.blocks}: shorten it or give the engine more KV blocks"
            )
        self._table.add(
            RequestState(
                id=request_id,
                arrival_s=arrival_s,
                terms=terms,
                prompt_tokens=prompt_tokens,
                computed_tokens=cached_tokens,
                clues=clues,
            )
        )
        self._output_tokens[request_id] = output_tokens
        if self._host is not None:
            self._host.arrived(request_id)
        if self.decisions is not None:
            self.decisions.arrived(request_id)
        self._changes += 1

    def abort(self, request_id: str) -> bool:
        """Drop a request; False when it is not here. Blocks of a request in the running step are free when it ends."""
        if request_id not in self._table.by_id or request_id in self._aborted:
            return False
        self._changes += 1
        if self._step is not None and any(entry.id == request_id for entry in self._step.plan.entries):
            self._aborted.add(request_id)
        else:
            self._remove(request_id, finished=False)
        return True

    def drain(self) -> None:
        """Publish that no new requests are wanted; whoever sends requests decides what follows from it."""
        self._draining = True
        self._changes += 1

    def begin_step(self, now_s: float) -> StartedStep | None:
        """Plan and start a step; None when there is no request.

        Raises:
            PlanError: the plan breaks a limit, or leaves the engine idle although it has requests.
            RuntimeError: a step is running.
        """
        if self._step is not None:
            raise RuntimeError("a step is running: call complete_step first")
        host = self._host
        if host is not None:
            self._free_blocks += host.settle(now_s)
        if not self._table:
            return None
        state = EngineState(
            now_s=now_s,
            requests=self._table,
            limits=self.limits,
            free_blocks=self._free_blocks,
            latency=self.latency,
            resume=None if host is None else host.resume,
        )
        plan = self._policy.plan(state)
        if host is not None:
            plan = host.admit(plan)
        step = self._check(plan)
        if self.decisions is not None:
            self.decisions.note(self._policy, state, plan)
        self._preempt(plan.preempt)
        for request in step.admitted:
            request.resident = True
            request.host_tokens = 0
            self._table.update(request)
        for request, blocks in step.growing:
            request.blocks += blocks
        self._free_blocks = step.free_blocks
        self.steps += 1
        self._changes += 1
        duration_s, copies = step.alone_s, None
        if host is not None:
            copies, duration_s = host.begin(plan, step.growing, alone_s=duration_s)
            plan = msgspec.structs.replace(plan, predicted_s=duration_s)
        self._step = StartedStep(plan=plan, started_s=now_s, duration_s=duration_s, copies=copies)
        return self._step

    def complete_step(self, now_s: float) -> list[Emission]:
        """End the running step: progress is made and tokens come out, in the plan's order.

        Raises:
            RuntimeError: no step is running.
        """
        if self._step is None:
            raise RuntimeError("no step is running: call begin_step first")
        emissions: list[Emission] = []
        requests, lengths = self._table.by_id, self._output_tokens
        host, block_size = self._host, self.limits.block_size
        if host is not None:
            host.end_step()
        for entry in self._step.plan.entries:
            request_id = entry.id
            if request_id in self._aborted:
                self._aborted.discard(request_id)
                self._remove(request_id, finished=False)
                continue
            request = requests[request_id]
            computed = request.computed_tokens + entry.tokens
            request.computed_tokens = computed
            if host is not None and computed % block_size < entry.tokens:
                host.computed(request_id, computed)
            emitted = request.emitted_tokens
            if computed < request.prompt_tokens + emitted:
                continue
            request.emitted_tokens = emitted = emitted + 1
            if request.first_token_s is None:
                request.first_token_s = now_s
                self._table.update(request)
            finished = emitted == lengths[request_id]
            emissions.append(Emission(request_id, emitted, finished))
            if finished:
                self._remove(request_id, finished=True)
        self._step = None
        self._changes += 1
        return emissions

    def snapshot(self, now_s: float) -> CapacitySnapshot:
        """What the engine publishes. During a step: its state when the step began, with the step's blocks taken."""
        requests = [request for request in self._table if request.id not in self._aborted]
        residents = [request for request in requests if request.resident]
        waiting = [request for request in requests if not request.resident]
        step = self._step
        return CapacitySnapshot(
            seq=self._changes,
            engine_id=self._engine_id,
            model=self._model,
            policy=self._policy_name,
            age_s=0.0,
            block_size=self.limits.block_size,
            blocks=self.limits.blocks,
            free_blocks=self._free_blocks,
            host_blocks=self._host.ledger.host_blocks if self._host is not None else 0,
            free_host_blocks=self._host.ledger.free_host if self._host is not None else 0,
            running=len(residents),
            waiting=len(waiting),
            max_sequences=self.limits.max_sequences,
            max_step_tokens=self.limits.max_step_tokens,
            step_age_s=now_s - step.started_s if step else None,
            step_predicted_s=step.plan.predicted_s if step else None,
            latency=self.latency,
            preemptions=self.preemptions,
            draining=self._draining,
            classes=class_totals(requests),
            rows=tuple(request_row(request, now_s) for request in (residents + waiting)[:MAX_ROWS]),
            rows_truncated=len(requests) > MAX_ROWS,
        )

    def _check(self, plan: BatchPlan) -> CheckedStep:
        try:
            return check_plan(
                plan,
                table=self._table,
                limits=self.limits,
                free_blocks=self._free_blocks,
                latency=self.latency,
                idles=self._host is not None and self._host.arriving_blocks > 0,
            )
        except PlanError as error:
            raise PlanError(f"batching policy {self._policy_name!r}: the plan {error}") from error

    def _preempt(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            request = self._table.by_id[request_id]
            lost_tokens = request.computed_tokens
            request.resident = False
            request.blocks = 0
            request.computed_tokens = 0
            request.preemptions += 1
            if self._host is not None:
                self._host.preempt(request, lost_tokens)
            self._table.update(request)
        self.preemptions += len(request_ids)

    def _remove(self, request_id: str, *, finished: bool) -> None:
        request = self._table.remove(request_id)
        self._free_blocks += request.blocks if self._host is None else self._host.ended(request_id)
        del self._output_tokens[request_id]
        if self.decisions is not None:
            self.decisions.ended(request_id)
        if self._observer is not None:
            self._observer.ended(request, finished=finished)
