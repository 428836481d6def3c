"""Whether an engine can do what a policy plans, and what that does to its requests and blocks."""

from collections.abc import Sequence

import msgspec

from proserve_core.batching.request_table import RequestTable
from proserve_core.batching.state import BatchPlan, EngineLimits, RequestState
from proserve_core.latency import LatencyModel


class PlanError(RuntimeError):
    """A policy planned what the engine cannot do: a bug in the policy."""


class CheckedStep(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan that is in order does."""

    alone_s: float
    """Its duration without copies."""
    free_blocks: int
    """After its preemptions and allocations."""
    admitted: Sequence[RequestState]
    growing: Sequence[tuple[RequestState, int]]
    """Who takes how many blocks more."""


def check_plan(
    plan: BatchPlan, *, table: RequestTable, limits: EngineLimits, free_blocks: int, latency: LatencyModel, idles: bool
) -> CheckedStep:
    """What the plan does to requests and blocks; changes nothing.

    Args:
        free_blocks: before it.
        idles: a step may run nobody, as it waits for copies.

    Raises:
        PlanError: the engine cannot do that.
    """
    requests = table.by_id
    block_size, free = limits.block_size, free_blocks
    for request_id in plan.preempt:
        victim = requests.get(request_id)
        if victim is None or not victim.resident:
            raise PlanError(f"preempts {request_id!r}, which is not resident")
        free += victim.blocks - victim.copying_blocks
    preempted = set(plan.preempt)
    if len(preempted) < len(plan.preempt):
        raise PlanError("preempts a request twice")
    if not plan.entries and not idles:
        raise PlanError(f"runs nothing although {len(requests)} requests are in the engine")
    seen: set[str] = set()
    admitted: list[RequestState] = []
    growing: list[tuple[RequestState, int]] = []
    new_tokens = attention = context = 0
    # One pass with bare arithmetic: this runs for every token of every request.
    for entry in plan.entries:
        request_id, tokens = entry.id, entry.tokens
        request = requests.get(request_id)
        if request is None or request_id in seen or request_id in preempted:
            problem = "is unknown" if request is None else "is there twice" if request_id in seen else "is preempted"
            raise PlanError(f"runs {request_id!r}, which {problem}")
        seen.add(request_id)
        computed, emitted = request.computed_tokens, request.emitted_tokens
        pending = request.prompt_tokens + emitted - computed
        if not 1 <= tokens <= pending:
            raise PlanError(f"gives {request_id!r} {tokens} tokens, it has {pending} to compute")
        if not request.resident:
            admitted.append(request)
        if pending == 1 and emitted:
            context += computed
        else:
            attention += tokens * (tokens + 2 * computed)
        new_tokens += tokens
        need = -(-(computed + tokens) // block_size) - request.blocks
        if need > 0:
            free -= need
            growing.append((request, need))
    residents = len(table.residents) - len(preempted) + len(admitted)
    if free < 0:
        raise PlanError(f"needs {-free} blocks more than are free (limit blocks={limits.blocks})")
    if residents > limits.max_sequences:
        raise PlanError(f"makes {residents} requests resident (limit max_sequences={limits.max_sequences})")
    if new_tokens > limits.max_step_tokens:
        raise PlanError(f"has {new_tokens} tokens (limit max_step_tokens={limits.max_step_tokens})")
    return CheckedStep(
        alone_s=latency.sums_s(new_tokens, attention, context, len(plan.entries)) if plan.entries else 0.0,
        free_blocks=free,
        admitted=admitted,
        growing=growing,
    )
