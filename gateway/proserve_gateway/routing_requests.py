"""What a request is to those who choose its engine: how long its prompt and output are, what it weighs, how it begins.

Everything here is an estimate until the engine answers, and is learned from what engines answer.
"""

from collections.abc import Callable

import msgspec

from proserve_core.objectives import ServiceTerms
from proserve_core.routing import RoutingRequest
from proserve_gateway.accounting import Entry
from proserve_gateway.fleet import Fleet
from proserve_gateway.inference_request import InferenceRequest
from proserve_gateway.pool_lengths import PoolLengths
from proserve_gateway.prompt_estimate import PromptEstimator
from proserve_gateway.prompt_prefix import prefix_blocks

Boost = Callable[[InferenceRequest, ServiceTerms], float]
"""What the weight of a request's terms is multiplied with when its place among others is decided."""


def no_boost(_request: InferenceRequest, _terms: ServiceTerms) -> float:
    """Everybody weighs what its class says."""
    return 1.0


class RoutingRequests:
    """Makes them."""

    def __init__(self, *, fleet: Fleet, clock: Callable[[], float], boost: Boost = no_boost) -> None:
        self._fleet = fleet
        self._clock = clock
        self._boost = boost
        self._prompts = PromptEstimator()
        self._lengths: dict[str, PoolLengths] = {}
        """Of pools whose requests wait."""

    def of(self, request: InferenceRequest, entry: Entry) -> RoutingRequest:
        """A new request."""
        body, pool = request.body, request.pool
        prompt_tokens = body.prompt_tokens or self._prompts.estimate(pool, body.prompt_bytes)
        expected_tokens = entry.expected_tokens
        blocks: tuple[int, ...] = ()
        if self._fleet.queue(pool) is not None:
            if self._fleet.size(pool) > 1:
                blocks = prefix_blocks(body, request.tenant)
            if entry.generates:
                expected_tokens = self._lengths_of(pool).expect(
                    request, entry, prompt_tokens=prompt_tokens, prefix=str(blocks[0]) if blocks else ""
                )
        return RoutingRequest(
            id=request.id,
            arrival_s=request.arrival_s,
            terms=self._weighed(request, request.terms),
            prompt_tokens=prompt_tokens,
            expected_output_tokens=expected_tokens,
            streams=body.stream,
            prefix_blocks=blocks,
        )

    def in_class(self, routing: RoutingRequest, request: InferenceRequest, terms: ServiceTerms) -> RoutingRequest:
        """The request with the terms of another class."""
        return msgspec.structs.replace(routing, terms=self._weighed(request, terms))

    def prompt_counted(self, request: InferenceRequest, tokens: int) -> None:
        """The engine told the prompt's length."""
        self._prompts.learn(request.pool, request.body.prompt_bytes, tokens)

    def _weighed(self, request: InferenceRequest, terms: ServiceTerms) -> ServiceTerms:
        boost = self._boost(request, terms)
        return terms if boost == 1.0 else msgspec.structs.replace(terms, weight=terms.weight * boost)

    def _lengths_of(self, pool: str) -> PoolLengths:
        lengths = self._lengths.get(pool)
        if lengths is None:
            lengths = self._lengths[pool] = PoolLengths(clock=self._clock)
        return lengths
