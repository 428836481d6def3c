"""Requests of an engine as its capacity snapshot shows them. Engines, emulator and simulator share it."""

from collections.abc import Iterable

from proserve_core.batching.state import RequestState
from proserve_core.capacity import ClassTotals, RequestRow


def request_row(request: RequestState, now_s: float) -> RequestRow:
    """The row of one request at `now_s`, on the clock of its arrival."""
    # Bare arithmetic instead of the request's properties: engines make hundreds of rows after every step.
    terms = request.terms
    objectives, emitted, computed = terms.objectives, request.emitted_tokens, request.computed_tokens
    pending = request.prompt_tokens + emitted - computed
    decoding = pending == 1 and emitted > 0 and request.resident
    return RequestRow(
        id=request.id,
        priority_class=terms.priority_class,
        weight=terms.weight,
        first_token_gain=terms.first_token_gain,
        output_token_gain=terms.output_token_gain,
        tpot_s=objectives.tpot_s,
        decoding=decoding,
        resident=request.resident,
        prefill_tokens=0 if decoding else pending,
        context_tokens=computed,
        emitted_tokens=emitted,
        deadline_in_s=request.arrival_s + objectives.ttft_s + emitted * objectives.tpot_s - now_s,
    )


def class_totals(requests: Iterable[RequestState]) -> dict[str, ClassTotals]:
    """Sums by class over all requests of an engine."""
    sums: dict[str, list[int]] = {}
    for request in requests:
        name, emitted, computed, resident = (
            request.terms.priority_class,
            request.emitted_tokens,
            request.computed_tokens,
            request.resident,
        )
        total = sums.get(name)
        if total is None:
            total = sums[name] = [0, 0, 0, 0]
        total[resident] += 1
        pending = request.prompt_tokens + emitted - computed
        if pending == 1 and emitted > 0 and resident:
            total[3] += computed
        else:
            total[2] += pending
    return {
        name: ClassTotals(waiting=waiting, running=running, prefill_tokens=prefill, decode_context_tokens=context)
        for name, (waiting, running, prefill, context) in sums.items()
    }
