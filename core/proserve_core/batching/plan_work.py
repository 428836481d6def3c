"""What a plan computes, in the sums that a latency model asks for."""

from collections.abc import Container, Mapping

from proserve_core.batching.state import BatchPlan, RequestState
from proserve_core.latency import StepWork


def plan_work(plan: BatchPlan, requests: Mapping[str, RequestState], *, without: Container[str] = ()) -> StepWork:
    """Sums over the plan's entries, before its step has run.

    Args:
        requests: by id; an entry that is not among them is nobody's work.
        without: whose entries are left out.
    """
    tokens = attention = context = sequences = 0
    for entry in plan.entries:
        request = requests.get(entry.id)
        if request is None or entry.id in without:
            continue
        sequences += 1
        tokens += entry.tokens
        if request.is_decode:
            context += request.computed_tokens
        else:
            attention += entry.tokens * (entry.tokens + 2 * request.computed_tokens)
    return StepWork(new_tokens=tokens, attention=attention, decode_context=context, sequences=sequences)
