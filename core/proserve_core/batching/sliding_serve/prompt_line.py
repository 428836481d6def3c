"""Prompts laid end to end, so that a step is an interval of tokens and its sums come from prefix sums."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from proserve_core.batching.state import RequestState


class PromptPart(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over an interval of the line, as in `BatchFeatures`."""

    tokens: int = 0
    attention: float = 0.0
    context: int = 0
    sequences: int = 0


class PromptLine:
    """Pending tokens of `prompts`, in their order."""

    def __init__(self, prompts: Sequence[RequestState]) -> None:
        self.prompts = prompts
        self._ends = list(accumulate(request.pending_tokens for request in prompts))
        """End of each prompt on the line."""
        attention = (_attention(request.pending_tokens, request.computed_tokens) for request in prompts)
        self._attention = [0.0, *accumulate(attention)]
        self._context = [0, *accumulate(request.computed_tokens for request in prompts)]
        self._totals = [0, *accumulate(request.total_tokens for request in prompts)]

    @property
    def tokens(self) -> int:
        """Length of the line."""
        return self._ends[-1] if self._ends else 0

    def finished(self, end: int) -> int:
        """Prompts that are complete once the first `end` tokens are computed."""
        return bisect_right(self._ends, end)

    def finished_context(self, end: int) -> int:
        """Contexts that those prompts decode with, summed."""
        return self._totals[self.finished(end)]

    def part(self, start: int, end: int) -> PromptPart:
        """Sums over the tokens from `start` up to `end`, both within the line."""
        if end <= start:
            return PromptPart()
        first, last = bisect_right(self._ends, start), bisect_left(self._ends, end)
        # Whole prompts first..last, less what lies before `start` and after `end`.
        attention = self._attention[last + 1] - self._attention[first]
        context = self._context[last + 1] - self._context[first]
        head = start - (self._ends[first - 1] if first else 0)
        if head:
            attention -= _attention(head, self.prompts[first].computed_tokens)
            context += head
        tail = self._ends[last] - end
        if tail:
            request = self.prompts[last]
            attention -= _attention(tail, request.total_tokens - tail)
        return PromptPart(tokens=end - start, attention=attention, context=context, sequences=last + 1 - first)


def _attention(tokens: int, context: int) -> float:
    return tokens * (context + (tokens + 1) / 2)
