"""The decodes that an order begins with, taken into a step together.

Most of what runs are decodes that come before everything else, and to walk hundreds of them one by one costs more than
the rest of many plans. A step only grows with each of them (no coefficient of a latency model is negative), so a binary
search finds how many fit; `fill` begins behind them.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from proserve_core.batching.state import EngineState, RequestState


class DecodeHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first entries of a step."""

    count: int = 0
    context: int = 0
    """Sum of their computed tokens."""
    blocks: int = 0
    """Free blocks that they take."""


NOBODY = DecodeHead()
FEWEST = 32
"""Fewer are walked as quickly."""


def leading_decodes(order: Sequence[RequestState]) -> Sequence[RequestState]:
    """Those before the first request of an order that is no decode."""
    for place, request in enumerate(order):
        emitted = request.emitted_tokens
        if not (emitted and request.prompt_tokens + emitted - request.computed_tokens == 1 and request.resident):
            return order[:place]
    return order


def decode_head(
    decodes: Sequence[RequestState],
    state: EngineState,
    *,
    step_tokens: float = math.inf,
    budget_s: float = math.inf,
) -> DecodeHead:
    """Those of `decodes`, the first ones of an order, that fit. The other arguments are those of `fill`."""
    count = min(len(decodes), state.limits.max_step_tokens)
    if step_tokens < count:
        count = int(step_tokens)
    if count < FEWEST:
        return NOBODY
    decodes = decodes[:count]
    block_size, sums_s = state.limits.block_size, state.latency.sums_s
    contexts = [request.computed_tokens for request in decodes]
    wanted = [request.computed_tokens // block_size + 1 - request.blocks for request in decodes]
    context = sum(contexts)
    # Who has more blocks than it needs gives none back.
    blocks = sum([need for need in wanted if need > 0])
    if blocks <= state.free_blocks and sums_s(count, 0, context, count) <= budget_s:
        return DecodeHead(count=count, context=context, blocks=blocks)
    until = list(accumulate(contexts))
    taken = list(accumulate([max(0, need) for need in wanted]))
    count = bisect_right(taken, state.free_blocks)
    if count and sums_s(count, 0, until[count - 1], count) > budget_s:
        count = bisect_right(range(count), budget_s, key=lambda place: sums_s(place + 1, 0, until[place], place + 1))
    return DecodeHead(count=count, context=until[count - 1], blocks=taken[count - 1]) if count else NOBODY
