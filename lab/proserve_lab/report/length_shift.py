"""Output lengths that change all at once: what a policy has learned of them is wrong from one request to the next.

From the middle of the requests on, the outputs of some senders are `FACTOR` times as long as recorded, those of all
others so many times shorter. Senders are clients; of a trace without clients, bands of prompt lengths. Taken from the
one with the most output tokens on, a sender's outputs get longer when what the others have become shorter by allows it,
so that the work as a whole stays about the same.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from proserve_core.batching.lengths import band_of
from proserve_lab.report.workloads import LONGEST_OUTPUT
from proserve_lab.simulation.workload import SimulatedRequest

FACTOR = 5


def shift_lengths(requests: Sequence[SimulatedRequest]) -> list[SimulatedRequest]:
    """The requests, the second half with other output lengths."""
    middle = len(requests) // 2
    return [*requests[:middle], *_shifted(requests[middle:])]


def sender(request: SimulatedRequest) -> str:
    """Whose outputs change together."""
    return request.clues.client or f"band {band_of(request.prompt_tokens)}"


def _shifted(requests: Sequence[SimulatedRequest]) -> list[SimulatedRequest]:
    before, longer, shorter = Counter[str](), Counter[str](), Counter[str]()
    for request in requests:
        name, tokens = sender(request), request.output_tokens
        before[name] += tokens
        longer[name] += min(FACTOR * tokens, LONGEST_OUTPUT)
        shorter[name] += -(-tokens // FACTOR)
    lengthened: set[str] = set()
    spare = 0
    for name, tokens in before.most_common():
        if longer[name] - tokens <= spare:
            lengthened.add(name)
            spare -= longer[name] - tokens
        else:
            spare += tokens - shorter[name]
    return [
        msgspec.structs.replace(
            request,
            output_tokens=min(FACTOR * request.output_tokens, LONGEST_OUTPUT)
            if sender(request) in lengthened
            else -(-request.output_tokens // FACTOR),
        )
        for request in requests
    ]
