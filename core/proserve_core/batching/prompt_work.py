"""What prompts add to a step when they share a number of tokens, for policies that try several step sizes."""

from collections.abc import Iterable, Sequence

import msgspec

from proserve_core.batching.state import RequestState
from proserve_core.latency import StepWork


def decode_work(decodes: Sequence[RequestState]) -> StepWork:
    """One token for each decode."""
    return StepWork(
        new_tokens=len(decodes),
        decode_context=sum([request.computed_tokens for request in decodes]),
        sequences=len(decodes),
    )


def with_prompts(work: StepWork, prompts: Iterable[RequestState], tokens: int) -> StepWork:
    """`work` and up to `tokens` tokens of `prompts`, taken in their order, the last one in part."""
    left, attention, sequences = tokens, work.attention, work.sequences
    for request in prompts:
        if left <= 0:
            break
        chunk = min(left, request.pending_tokens)
        left -= chunk
        attention += chunk * (chunk + 2 * request.computed_tokens)
        sequences += 1
    return msgspec.structs.replace(
        work, new_tokens=work.new_tokens + tokens - left, attention=attention, sequences=sequences
    )
