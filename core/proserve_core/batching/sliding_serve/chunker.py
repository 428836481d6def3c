"""SlidingChunker: prompt tokens of this step and the next one, chosen together.

Source: SlidingServe, SlidingChunker: filling this step to its slack is best for this step alone; the chunk sizes of two
windows are chosen by a discrete ternary search, and only the first is carried out before planning anew. The objective
is ours: most tokens in both windows, then least time. A window may last as long as the tightest decode has slack; after
the first one every decode has gained one TPOT, and prompts that it finishes have become decodes, whose tokens count.

Time is convex in the tokens of a step, so splitting can only win where it is not linear: below the knee tokens are
free, and a second window too short for even its floor wastes them. On an exactly linear model all splits are equal and
the greedy pair is kept. Piecewise models may have several peaks: hence the scan of the last few candidates, and the
greedy pair is always one of them.
"""

import math
from collections.abc import Callable, Sequence

import msgspec

from proserve_core.batching.sliding_serve.predictor import BatchFeatures
from proserve_core.batching.sliding_serve.prompt_line import PromptLine
from proserve_core.batching.state import RequestState

_ROUNDING_S = 1e-9


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Prompt tokens of two windows."""

    first: int
    second: int
    started: int = 0
    """Decodes of the second window that the first one adds."""
    first_s: float
    second_s: float

    @property
    def tokens(self) -> int:
        return self.first + self.second + self.started

    def beats(self, other: "Pair") -> bool:
        """More tokens, or as many in less time."""
        if self.tokens != other.tokens:
            return self.tokens > other.tokens
        return self.first_s + self.second_s < other.first_s + other.second_s - _ROUNDING_S


def decode_deadline_s(request: RequestState) -> float:
    """When a decode's next token is due: TDG's deadline, moved by a first token that was late (QoServe's rule)."""
    objectives = request.terms.objectives
    due_s = request.arrival_s + objectives.ttft_s
    first_s = due_s if request.first_token_s is None else max(due_s, request.first_token_s)
    return first_s + request.emitted_tokens * objectives.tpot_s


class SlidingChunker:
    """Chooses among the splits of one planning problem."""

    def __init__(
        self,
        *,
        predict_s: Callable[[BatchFeatures], float],
        now_s: float,
        decodes: Sequence[RequestState],
        line: PromptLine,
        slack_s: float,
        limit_tokens: int,
        least_tokens: int,
        grid_tokens: int,
    ) -> None:
        """
        Args:
            slack_s: longest duration of the first window.
            limit_tokens: most tokens of a step, decodes included.
            least_tokens: prompt tokens that the first window takes however short its slack is.
            grid_tokens: distance of the candidates that are tried.
        """
        self._predict_s = predict_s
        self._now_s = now_s
        self._line = line
        self._slack_s = slack_s
        self._limit_tokens = limit_tokens
        self._least_tokens = least_tokens
        self._grid_tokens = grid_tokens
        self._decodes = len(decodes)
        self._context = sum(request.computed_tokens for request in decodes)
        self._after_s = min(
            (decode_deadline_s(request) + request.terms.objectives.tpot_s for request in decodes), default=math.inf
        )
        """Tightest deadline of these decodes once each has its next token."""

    def first_s(self, tokens: int) -> float:
        """Duration of the first window with `tokens` prompt tokens."""
        part = self._line.part(0, tokens)
        return self._predict_s(
            BatchFeatures(
                prompt_tokens=part.tokens,
                decodes=self._decodes,
                decode_context=self._context,
                attention=part.attention,
                prompt_context=part.context,
                sequences=part.sequences + self._decodes,
            )
        )

    def finished(self, tokens: int) -> Sequence[RequestState]:
        """Prompts that a first window with `tokens` prompt tokens completes."""
        return self._line.prompts[: self._line.finished(tokens)]

    def greedy(self) -> Pair:
        """As much as fits now, then as much as fits next."""
        most = max(0, min(self._line.tokens, self._limit_tokens - self._decodes))
        fitting = _largest(0, most, lambda tokens: self.first_s(tokens) <= self._slack_s)
        return self._pair(max(fitting, min(self._least_tokens, most)))

    def best(self) -> Pair:
        """The best pair found, the greedy one unless another beats it."""
        greedy = self.greedy()
        found = greedy
        step = self._grid_tokens
        low, high = -(-min(self._least_tokens, greedy.first) // step), greedy.first // step
        pairs: dict[int, Pair] = {}

        def at(index: int) -> Pair:
            if index not in pairs:
                pairs[index] = self._pair(index * step)
            return pairs[index]

        while high - low > 3:
            third = (high - low) // 3
            if at(low + third).beats(at(high - third)):
                high -= third
            else:
                # Level stretches go to the larger first window, the one that is carried out.
                low += third
        for index in range(high, low - 1, -1):
            if at(index).beats(found):
                found = at(index)
        return found

    def _pair(self, first: int) -> Pair:
        first_s = self.first_s(first)
        start_s = self._now_s + first_s
        finished = self.finished(first)
        due_s = min(
            (max(start_s, request.next_deadline_s()) + request.terms.objectives.tpot_s for request in finished),
            default=math.inf,
        )
        slack_s = min(self._after_s, due_s) - start_s
        decodes = self._decodes + len(finished)
        context = self._context + self._decodes + self._line.finished_context(first)

        def second_s(tokens: int) -> float:
            part = self._line.part(first, first + tokens)
            return self._predict_s(
                BatchFeatures(
                    prompt_tokens=part.tokens,
                    decodes=decodes,
                    decode_context=context,
                    attention=part.attention,
                    prompt_context=part.context,
                    sequences=part.sequences + decodes,
                )
            )

        most = max(0, min(self._line.tokens - first, self._limit_tokens - decodes))
        second = _largest(0, most, lambda tokens: second_s(tokens) <= slack_s)
        return Pair(first=first, second=second, started=len(finished), first_s=first_s, second_s=second_s(second))


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Largest count in low..high that fits, `low` if none does; what fits has no gaps."""
    if fits(high):
        return high
    while low < high - 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
