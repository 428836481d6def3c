"""The policy `sliding-serve`: predictor, sorter, chunker and constructor put together; concept in the package.

Each step takes all decodes. The sorter ranks the prompts, the chunker decides how many of their tokens run, and when
that would let a protected prompt miss its deadline, the constructor picks the prompts that run in time; what is left of
the step goes to the next in order. Nobody loses blocks for a waiting request.

Parameters: `safety` on predicted times; `least_tokens`, prompt tokens of a step however late decodes are, so that
prompts never starve behind them; `grid_tokens` of the ternary search; `aging_s`, after which a lost prompt counts as
normal; `urgent_share` of the slack, from which on a prompt is urgent. Without decodes the tightest deadline of a prompt
that can be met bounds the step.

Deviations: a batch's time is learned as the time between two plans, if a request was there all the while; until then,
and with `own_predictor: false`, the engine's latency model predicts. Decode deadlines count from arrival, as TDG does,
unless the first token was late.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import msgspec

from proserve_core.batching.decode_head import decode_head
from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.sliding_serve.batch_constructor import MAX_ITEMS, choose
from proserve_core.batching.sliding_serve.chunker import DecodeLoad, SlidingChunker
from proserve_core.batching.sliding_serve.predictor import BatchFeatures, BatchLatencyPredictor
from proserve_core.batching.sliding_serve.priority_sorter import Horizon, Level, Ranked, SortedPrompts
from proserve_core.batching.sliding_serve.prompt_line import PromptLine
from proserve_core.batching.state import BatchPlan, EngineState, RequestState

_OPTIONS = FillOptions(waiting_preempts=False, preempt_self=True, admit_after_preemption=False)


class SlidingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `sliding-serve`."""

    safety: float = 1.1
    """Predicted times are multiplied by this."""
    least_tokens: int = 128
    """Prompt tokens that a step takes however short its slack is."""
    grid_tokens: int = 32
    """Distance of the chunk sizes that the ternary search tries."""
    aging_s: float = math.inf
    """Age in seconds at which a lost prompt is ranked as normal again."""
    urgent_share: float = math.inf
    """Part of its slack that a prompt's work takes, from which on it is urgent within its level."""
    sliding: bool = True
    """Two windows; else the greedy chunk."""
    knapsack: bool = True
    """Use the batch constructor."""
    own_predictor: bool = True
    """Predict with the seven features; else with the engine's latency model."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {rule}, got {value}"
            for name, value, good, rule in (
                ("safety", self.safety, self.safety > 0, "above 0"),
                ("least_tokens", self.least_tokens, self.least_tokens >= 1, "at least 1"),
                ("grid_tokens", self.grid_tokens, self.grid_tokens >= 1, "at least 1"),
                ("aging_s", self.aging_s, self.aging_s >= 0, "at least 0"),
                ("urgent_share", self.urgent_share, self.urgent_share >= 0, "at least 0"),
            )
            if not good
        ]
        if problems:
            raise ValueError("; ".join(problems))


class _Planned(msgspec.Struct, frozen=True):
    """The last plan, to learn from when the next one is made."""

    now_s: float
    features: BatchFeatures
    ids: tuple[str, ...]


class _Prompts(NamedTuple):
    """Prompts of a step."""

    order: Iterable[RequestState]
    """As they run; lazy."""
    residents: list[RequestState]
    """Those of them that are resident, in the same order."""
    tokens: int
    """How many of their tokens run."""


class SlidingServe:
    """Policy `sliding-serve`."""

    def __init__(self, options: SlidingOptions | None = None) -> None:
        self.options = options or SlidingOptions()
        self.predictor = BatchLatencyPredictor()
        self.sorted: SortedPrompts | None = None
        """The prompts of the last plan, if it had any."""
        self.chosen: frozenset[str] = frozenset()
        """Those that the knapsack took."""
        self._planned: _Planned | None = None

    def plan(self, state: EngineState) -> BatchPlan:
        if self.options.own_predictor:
            self._learn(state)
        columns = RequestColumns(state)
        decodes = columns.requests(columns.decode.nonzero()[0])
        load = DecodeLoad.of(columns, state.now_s)
        prompts = self._prompts(state, columns, load)
        step_tokens = len(decodes) + prompts.tokens
        head = decode_head(decodes, state, step_tokens=step_tokens)
        plan = fill(
            state,
            order=chain(decodes[head.count :], prompts.order),
            residents=decodes + prompts.residents,
            options=_OPTIONS,
            step_tokens=step_tokens,
            head=head,
        )
        # A step that preempts may leave out decodes: rare, and not worth adding them up one by one.
        if self.options.own_predictor and plan.entries and not plan.preempt:
            by_id = state.requests.by_id
            prompt_entries = plan.entries[len(decodes) :]
            features = _features(load, [(by_id[entry.id], entry.tokens) for entry in prompt_entries])
            self._planned = _Planned(state.now_s, features, tuple(by_id))
        return plan

    def _prompts(self, state: EngineState, columns: RequestColumns, decodes: DecodeLoad) -> _Prompts:
        options, latency, now_s = self.options, state.latency, state.now_s
        self.sorted, self.chosen = None, frozenset()
        if decodes.count == len(columns):
            return _Prompts((), [], 0)

        def predict_s(features: BatchFeatures) -> float:
            return options.safety * self.predictor.predict_s(features, latency)

        base_s = predict_s(_features(decodes, ()))
        slack_s = decodes.due_s - now_s
        ranked = SortedPrompts(
            columns,
            Horizon(
                now_s=now_s,
                base_s=base_s,
                window_s=max(base_s, slack_s) if decodes.count else float(columns.tpot_s.min()),
                aging_s=options.aging_s,
                urgent_share=options.urgent_share,
            ),
        )
        self.sorted = ranked
        if not decodes.count:
            slack_s = ranked.least_slack_s(worst=Level.NORMAL)
        started = ranked.residents()
        slots = state.limits.max_sequences - columns.residents

        def chunker(order: Iterable[RequestState], slack_s: float) -> SlidingChunker:
            return SlidingChunker(
                predict_s=predict_s,
                now_s=now_s,
                decodes=decodes,
                line=PromptLine(_reachable(order, started, slots, 2 * state.limits.max_step_tokens)),
                slack_s=slack_s,
                limit_tokens=state.limits.max_step_tokens,
                least_tokens=options.least_tokens,
                grid_tokens=options.grid_tokens,
            )

        sliding = chunker((item.request for item in ranked), slack_s)
        pair = sliding.best() if options.sliding else sliding.greedy()
        if options.knapsack and _lets_miss(ranked.protected(), sliding.finished(pair.first), pair.first_s):
            until_s = min(slack_s, ranked.least_slack_s(worst=Level.PROTECTED))
            chosen = choose(ranked.first(MAX_ITEMS), capacity_s=until_s - base_s)
            if chosen is not None:
                first = [item.request for item in chosen]
                ids = self.chosen = frozenset(request.id for request in first)
                behind = (item.request for item in ranked if item.request.id not in ids)
                pair = chunker(chain(first, behind), until_s).greedy()
                return _Prompts(
                    chain(first, (item.request for item in ranked if item.request.id not in ids)),
                    [request for request in first if request.resident]
                    + [request for request in started if request.id not in ids],
                    max(1, pair.first),
                )
        return _Prompts((item.request for item in ranked), started, max(1, pair.first))

    def _learn(self, state: EngineState) -> None:
        """Time since the last plan is the time of its batch, unless the engine may have been idle in between."""
        planned = self._planned
        if planned is None or state.now_s <= planned.now_s:
            return
        if any(request_id in state.requests.by_id for request_id in planned.ids):
            self.predictor.observe(planned.features, state.now_s - planned.now_s, state.latency)
        self._planned = None


def _lets_miss(at_risk: Iterable[Ranked], finished: Sequence[RequestState], step_s: float) -> bool:
    """Whether a protected prompt is not complete in the step, or too late."""
    ids = {request.id for request in finished}
    return any(item.request.id not in ids or item.slack_s <= step_s for item in at_risk)


def _reachable(
    order: Iterable[RequestState], started: Sequence[RequestState], slots: int, tokens: int
) -> list[RequestState]:
    """The first prompts of `order` that `tokens` tokens hold; without a free slot `started` ones only."""
    reachable: list[RequestState] = []
    for request in order:
        if not request.resident and slots <= 0:
            # Only started prompts are left, which a long queue may stand before.
            ids = {item.id for item in reachable}
            return reachable + [item for item in started if item.id not in ids]
        if tokens <= 0:
            break
        slots -= not request.resident
        reachable.append(request)
        tokens -= request.pending_tokens
    return reachable


def _features(decodes: DecodeLoad, chunks: Sequence[tuple[RequestState, int]]) -> BatchFeatures:
    """Of a step with all decodes and these chunks of prompts."""
    prompt_tokens = prompt_context = 0
    attention = 0.0
    for request, tokens in chunks:
        prompt_tokens += tokens
        prompt_context += request.computed_tokens
        attention += tokens * (request.computed_tokens + (tokens + 1) / 2)
    return BatchFeatures(
        prompt_tokens=prompt_tokens,
        decodes=decodes.count,
        decode_context=decodes.context,
        attention=attention,
        prompt_context=prompt_context,
        sequences=decodes.count + len(chunks),
    )
