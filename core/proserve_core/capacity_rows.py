"""Requests of an engine as its capacity snapshot shows them. Engines, emulator and simulator share it."""

from collections.abc import Iterable

from proserve_core.batching.state import RequestState
from proserve_core.capacity import ClassTotals, RequestRow


def request_row(request: RequestState, now_s: float) -> RequestRow:
    """The row of one request at `now_s`, on the clock of its arrival."""
    terms = request.terms
    decoding = request.is_decode
    return RequestRow(
        id=request.id,
        priority_class=terms.priority_class,
        weight=terms.weight,
        first_token_gain=terms.first_token_gain,
        output_token_gain=terms.output_token_gain,
        tpot_s=terms.objectives.tpot_s,
        decoding=decoding,
        resident=request.resident,
        prefill_tokens=0 if decoding else request.pending_tokens,
        context_tokens=request.computed_tokens,
        emitted_tokens=request.emitted_tokens,
        deadline_in_s=request.next_deadline_s() - now_s,
    )


def class_totals(requests: Iterable[RequestState]) -> dict[str, ClassTotals]:
    """Sums by class over all requests of an engine."""
    sums: dict[str, list[int]] = {}
    for request in requests:
        total = sums.setdefault(request.terms.priority_class, [0, 0, 0, 0])
        total[1 if request.resident else 0] += 1
        if request.is_decode:
            total[3] += request.computed_tokens
        else:
            total[2] += request.pending_tokens
    return {
        name: ClassTotals(waiting=waiting, running=running, prefill_tokens=prefill, decode_context_tokens=context)
        for name, (waiting, running, prefill, context) in sums.items()
    }
