"""QoServe: steps as large as the decodes' slack allows, prompts between deadline-first and shortest-first.

Source: QoServe, formerly Niyama (arXiv 2503.22562, ASPLOS '26), and its artifact (microsoft/sarathi-serve, branch
niyama_asplos2026). Each step takes all decodes. Their tightest slack picks the step's size from a grid of token counts:
the largest one whose predicted time, times `safety`, fits. What decodes leave goes to prompts in the order of arrival +
TTFT + `a` * tokens left: `a` = 0 is deadline-first, a large one shortest-first. A prompt that could not meet its TTFT
even if it ran alone from now on, at the throughput of the last steps, is relegated once and for all: it goes behind all
that are not. Classes play no part. Nobody loses blocks for a waiting request.

Parameters: `a` 0.008 s per token, `safety` 1.2, below `scarce_tokens` (32,000) free KV tokens the grid ends at 512
tokens, throughput averaged with decay 0.995: all as in the artifact.

Deviations: step times by our latency model, knee included, instead of its linear model for two strata of batch size.
The throughput starts at what the latency model says of a step of 256 tokens, instead of 8500 tokens/s (which is that
step on an A100). Tiers without a TTFT of their own do not exist here.

Decode deadlines are TDG's, moved by as much as the first token was late: the artifact's rule with the same numbering of
tokens as the gain. The artifact's own, `deadline: first-token`, are one TPOT later, so steps that just fit make tokens
late by TDG; `fixed` does not move, so that every answer to a relegated prompt is late from its first to its last token
and keeps steps at the least size while it lasts. Share of the gain (Llama-3.1-8B, classes with weights 2 and 1):

| | `moved` | `first-token` | `fixed` | `moved`, `a` 0.002 |
|---|---|---|---|---|
| azure-conv-2023, H100, 1.0 / 1.2 of saturation | 0.956 / 0.889 | 0.953 / 0.888 | 0.840 / 0.890 | 0.966 / 0.894 |
| the same, A100, 1.2 | 0.885 | 0.866 | 0.734 | 0.892 |
| servegen m-large, H100, 1.2 | 0.737 | 0.715 | | 0.741 |
| servegen deepseek-r1, H100, 1.2 | 0.933 | 0.930 | 0.792 | 0.932 |
| azure-code-2023, H100, 1.2 | 0.646 | 0.638 | 0.670 | 0.678 |
| mooncake-conversation, H100, 1.2 | 0.816 | 0.802 | 0.801 | 0.798 |
"""

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import chain

import msgspec
import numpy as np

from proserve_core.batching.decode_head import decode_head
from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.prompt_work import decode_work, with_prompts
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import Column, Mask, RequestColumns
from proserve_core.batching.state import BatchPlan, EngineState, RequestState
from proserve_core.latency import LatencyModel, StepWork

GRID = (128, *range(256, 2049, 256), 2552)
"""Tokens of a step, decodes included."""
SCARCE_GRID = (128, 256, 384, 512)
"""The same while KV blocks are scarce."""
_THROUGHPUT_DECAY = 0.995
_FIRST_THROUGHPUT_TOKENS = 256
_OPTIONS = FillOptions(waiting_preempts=False, preempt_self=True, admit_after_preemption=False)


class DecodeDeadline(StrEnum):
    """What a decode's slack counts to."""

    FIRST_TOKEN = "first-token"
    """max(TTFT, real first token) + TPOT * (emitted + 1), from arrival (artifact)."""
    MOVED = "moved"
    """max(TTFT, real first token) + TPOT * emitted: the TDG deadline, moved by a first token that was late."""
    FIXED = "fixed"
    """The TDG deadline."""


class QoServeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `qoserve`."""

    a: float = 0.008
    """Seconds by which each token that a prompt has left puts it back in the order."""
    safety: float = 1.2
    """Predicted times are multiplied by this."""
    scarce_tokens: int = 32_000
    """Free KV tokens below which steps stay small."""
    relegation: bool = True
    deadline: DecodeDeadline = DecodeDeadline.MOVED

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {rule}, got {value}"
            for name, value, good, rule in (
                ("a", self.a, self.a >= 0, "at least 0"),
                ("safety", self.safety, self.safety > 0, "above 0"),
                ("scarce_tokens", self.scarce_tokens, self.scarce_tokens >= 0, "at least 0"),
            )
            if not good
        ]
        if problems:
            raise ValueError("; ".join(problems))


class QoServe:
    """Policy `qoserve`."""

    def __init__(self, options: QoServeOptions | None = None) -> None:
        self.options = options or QoServeOptions()
        self._tokens_per_s: float | None = None
        self._last: tuple[float, float] | None = None
        """When the last step was planned, and its throughput in tokens per second."""

    def plan(self, state: EngineState) -> BatchPlan:
        self._learn_throughput(state)
        columns, ranking = RequestColumns(state), Ranking()
        decodes = columns.requests(columns.decode.nonzero()[0])
        relegated = self._relegated(columns, state)
        last_first = -(columns.arrival_s + columns.ttft_s + self.options.a * columns.pending)
        ranking.add(~columns.decode & ~relegated, last_first)
        ranking.add(~columns.decode & relegated, last_first)
        step_tokens = self._step_tokens(state, columns, decodes, columns.lazily(ranking.parts()))
        prompts = columns.requests(ranking.first(columns.residents))
        step_tokens = max(len(decodes), step_tokens)
        head = decode_head(decodes, state, step_tokens=step_tokens)
        plan = fill(
            state,
            order=chain(decodes[head.count :], columns.lazily(ranking.parts())),
            residents=decodes + prompts,
            options=_OPTIONS,
            step_tokens=step_tokens,
            head=head,
        )
        if plan.predicted_s > 0:
            self._last = state.now_s, sum([entry.tokens for entry in plan.entries]) / plan.predicted_s
        return plan

    def _step_tokens(
        self, state: EngineState, columns: RequestColumns, decodes: list[RequestState], order: Iterator[RequestState]
    ) -> int:
        scarce = state.free_blocks * state.limits.block_size < self.options.scarce_tokens
        grid: Sequence[int] = SCARCE_GRID if scarce else GRID
        prompts, tokens = list[RequestState](), 0
        while tokens < grid[-1] and (request := next(order, None)) is not None:
            prompts.append(request)
            tokens += request.pending_tokens
        slack_s = float(np.min(self._deadlines_s(columns), initial=math.inf)) - state.now_s
        work = decode_work(decodes)
        low, high = 0, len(grid) - 1
        while low < high:
            middle = (low + high + 1) // 2
            step = with_prompts(work, prompts, max(0, grid[middle] - len(decodes)))
            if self.options.safety * state.latency.step_s(step) <= slack_s:
                low = middle
            else:
                high = middle - 1
        return grid[low]

    def _deadlines_s(self, columns: RequestColumns) -> Column:
        """Of the decodes' next tokens."""
        decode = columns.decode.nonzero()[0]
        emitted, tpot_s = columns.emitted[decode], columns.tpot_s[decode]
        first_due_s = columns.arrival_s[decode] + columns.ttft_s[decode]
        fixed_s: Column = first_due_s + emitted * tpot_s
        if self.options.deadline is DecodeDeadline.FIXED:
            return fixed_s
        first_s = columns.first_token_s[decode]
        tokens = emitted + (self.options.deadline is DecodeDeadline.FIRST_TOKEN)
        return np.where(np.isnan(first_s), fixed_s, np.maximum(first_s, first_due_s) + tpot_s * tokens)

    def rank(self, state: EngineState, request: RequestState) -> tuple[bool, float]:
        """Whether a prompt is relegated, and the time by which it is ordered, in the step that was planned last."""
        due_s = request.arrival_s + request.terms.objectives.ttft_s
        row = np.array([state.requests.row(request.id)])
        relegated = bool(state.requests.notes(row, self)[0] > 0)
        return relegated, due_s + self.options.a * request.pending_tokens

    def _relegated(self, columns: RequestColumns, state: EngineState) -> Mask:
        """Those that can't make it any more, and those of which that was so once."""
        if not self.options.relegation:
            return ~columns.everybody
        tokens_per_s = self._tokens_per_s or _first_throughput(state.latency)
        first_due_s = columns.arrival_s + columns.ttft_s
        fresh = ~columns.resident & (columns.emitted == 0)
        late = fresh & (state.now_s + columns.pending / tokens_per_s > first_due_s)
        relegated: Mask = late | (columns.notes(self) > 0)
        columns.note(relegated.nonzero()[0], 1)
        return relegated

    def _learn_throughput(self, state: EngineState) -> None:
        """Once time has passed, the last planned step has run."""
        if self._last is None or state.now_s <= self._last[0]:
            return
        known = self._tokens_per_s or _first_throughput(state.latency)
        self._tokens_per_s = _THROUGHPUT_DECAY * known + (1 - _THROUGHPUT_DECAY) * self._last[1]
        self._last = None


def _first_throughput(latency: LatencyModel) -> float:
    tokens = _FIRST_THROUGHPUT_TOKENS
    work = StepWork(new_tokens=tokens, attention=tokens * tokens, sequences=1)
    return tokens / max(latency.step_s(work), 1e-9)
