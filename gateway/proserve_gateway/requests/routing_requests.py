"""What a request is to those who choose its engine: how long its prompt and output are, and how it begins.

Everything here is an estimate until the engine answers, and is learned from what engines answer.
"""

from collections.abc import Callable

from proserve_core.routing import RoutingRequest
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.requests.pool_lengths import PoolLengths
from proserve_gateway.requests.prompt_estimate import PromptEstimator
from proserve_gateway.requests.prompt_prefix import prefix_blocks
from proserve_gateway.seeing.accounting import Entry


class RoutingRequests:
    """Makes them."""

    def __init__(self, *, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._prompts = PromptEstimator()
        self._lengths: dict[str, PoolLengths] = {}
        """Of pools whose requests wait."""

    def prompt_tokens(self, request: InferenceRequest) -> int:
        """How long a new request's prompt is."""
        body = request.body
        return body.prompt_tokens or self._prompts.estimate(request.pool, request.tenant, body.prompt_bytes)

    def of(self, request: InferenceRequest, entry: Entry, *, prompt_tokens: int) -> RoutingRequest:
        """A new request that was admitted."""
        body, pool = request.body, request.pool
        expected_tokens = entry.expected_tokens
        blocks = prefix_blocks(body, request.tenant) if self._fleet.reads_prefixes(pool) else ()
        if entry.generates and self._fleet.queue(pool) is not None:
            expected_tokens = self._lengths_of(pool).expect(
                request, entry, prompt_tokens=prompt_tokens, prefix=str(blocks[0]) if blocks else ""
            )
        return RoutingRequest(
            id=request.id,
            arrival_s=request.arrival_s,
            terms=request.terms,
            tenant=request.tenant,
            prompt_tokens=prompt_tokens,
            expected_output_tokens=expected_tokens,
            streams=body.stream,
            prefix_blocks=blocks,
        )

    def prompt_counted(self, request: InferenceRequest, tokens: int) -> None:
        """The engine told the prompt's length."""
        if request.body.prompt_tokens is None:
            self._prompts.learn(request.pool, request.tenant, request.body.prompt_bytes, tokens)

    def _lengths_of(self, pool: str) -> PoolLengths:
        lengths = self._lengths.get(pool)
        if lengths is None:
            lengths = self._lengths[pool] = PoolLengths(clock=self._clock)
        return lengths
