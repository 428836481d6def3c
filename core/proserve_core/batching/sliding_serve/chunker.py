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
import numpy as np

from proserve_core.batching.request_columns import RequestColumns
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


class DecodeLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What the decodes of a step are to it."""

    count: int
    context: int
    """Sum of their contexts."""
    due_s: float
    """Tightest deadline of their next tokens; inf without decodes. TDG's deadlines, moved by a first token that was
    late (QoServe's rule)."""
    after_s: float
    """The same once each of them has its next token."""

    @classmethod
    def of(cls, columns: RequestColumns, now_s: float) -> "DecodeLoad":
        decodes = columns.decode.nonzero()[0]
        tpot_s, slack_s, first_s = columns.tpot_s[decodes], columns.slack_s[decodes], columns.first_token_s[decodes]
        # fmax, because a first token that is not known moves nothing.
        slack_s = np.fmax(slack_s, first_s + columns.emitted[decodes] * tpot_s - now_s)
        return cls(
            count=len(decodes),
            context=int(np.add.reduce(columns.computed[decodes])),
            due_s=now_s + float(np.min(slack_s, initial=math.inf)),
            after_s=now_s + float(np.min(slack_s + tpot_s, initial=math.inf)),
        )


class SlidingChunker:
    """Chooses among the splits of one planning problem."""

    def __init__(
        self,
        *,
        predict_s: Callable[[BatchFeatures], float],
        now_s: float,
        decodes: DecodeLoad,
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
        self._decodes = decodes

    def first_s(self, tokens: int) -> float:
        """Duration of the first window with `tokens` prompt tokens."""
        part = self._line.part(0, tokens)
        return self._predict_s(
            BatchFeatures(
                prompt_tokens=part.tokens,
                decodes=self._decodes.count,
                decode_context=self._decodes.context,
                attention=part.attention,
                prompt_context=part.context,
                sequences=part.sequences + self._decodes.count,
            )
        )

    def finished(self, tokens: int) -> Sequence[RequestState]:
        """Prompts that a first window with `tokens` prompt tokens completes."""
        return self._line.prompts[: self._line.finished(tokens)]

    def greedy(self) -> Pair:
        """As much as fits now, then as much as fits next."""
        most = max(0, min(self._line.tokens, self._limit_tokens - self._decodes.count))
        fitting, _ = _largest(most, self.first_s, self._slack_s)
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
        slack_s = min(self._decodes.after_s, due_s) - start_s
        decodes = self._decodes.count + len(finished)
        context = self._decodes.context + self._decodes.count + self._line.finished_context(first)

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
        second, took_s = _largest(most, second_s, slack_s)
        return Pair(first=first, second=second, started=len(finished), first_s=first_s, second_s=took_s)


def _largest(most: int, time_s: Callable[[int], float], limit_s: float) -> tuple[int, float]:
    """Largest count up to `most` whose time is within `limit_s`, 0 if none is, and its time; more never takes less.

    Time is nearly linear in tokens, so the next count tried is where a line through the ends of what is left meets the
    limit; every third one halves it, for models where that goes slowly.
    """
    high_s = time_s(most)
    if high_s <= limit_s:
        return most, high_s
    low, low_s, high = 0, time_s(0), most
    if low_s > limit_s:
        return 0, low_s
    tries = 0
    while low < high - 1:
        tries += 1
        if tries % 3 == 0:
            middle = (low + high) // 2
        else:
            middle = low + int((limit_s - low_s) / (high_s - low_s) * (high - low))
            middle = min(max(middle, low + 1), high - 1)
        middle_s = time_s(middle)
        if middle_s <= limit_s:
            low, low_s = middle, middle_s
        else:
            high, high_s = middle, middle_s
    return low, low_s
