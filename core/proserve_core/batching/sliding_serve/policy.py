"""The policy `sliding-serve`: predictor, sorter, chunker and constructor put together; concept in the package.

Each step takes all decodes. The sorter ranks the prompts, the chunker decides how many of their tokens run, and when
that would let a protected prompt miss its deadline, the constructor picks the prompts that run in time; what is left of
the step goes to the next in order. Nobody loses blocks for a waiting request.

Parameters: `safety` on predicted times; `least_tokens`, prompt tokens of a step however late decodes are, so that
prompts never starve behind them; `grid_tokens` of the ternary search; `aging_s`, after which a lost prompt counts as
normal. Without decodes the tightest deadline of a prompt that can be met bounds the step.

Deviations: a batch's time is learned as the time between two plans, if a request was there all the while; until then,
and with `own_predictor: false`, the engine's latency model predicts. Decode deadlines count from arrival, as TDG does,
unless the first token was late.
"""

import math
from collections.abc import Sequence

import msgspec

from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.sliding_serve.batch_constructor import choose
from proserve_core.batching.sliding_serve.chunker import SlidingChunker, decode_deadline_s
from proserve_core.batching.sliding_serve.predictor import BatchFeatures, BatchLatencyPredictor
from proserve_core.batching.sliding_serve.priority_sorter import Level, Ranked, sort_prompts
from proserve_core.batching.sliding_serve.prompt_line import PromptLine
from proserve_core.batching.stages import stages
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
            )
            if not good
        ]
        if problems:
            raise ValueError("; ".join(problems))


class _Planned(msgspec.Struct, frozen=True):
    """The last plan, to learn from when the next one is made."""

    now_s: float
    features: BatchFeatures
    ids: frozenset[str]


class SlidingServe:
    """Policy `sliding-serve`."""

    def __init__(self, options: SlidingOptions | None = None) -> None:
        self.options = options or SlidingOptions()
        self.predictor = BatchLatencyPredictor()
        self._planned: _Planned | None = None

    def plan(self, state: EngineState) -> BatchPlan:
        if self.options.own_predictor:
            self._learn(state)
        parts = stages(state.requests)
        prompts, tokens = self._choose(state, parts.decodes, parts.prefills + parts.waiting)
        order = parts.decodes + prompts
        plan = fill(
            state,
            order=order,
            residents=[request for request in order if request.resident],
            options=_OPTIONS,
            step_tokens=len(parts.decodes) + tokens,
        )
        if self.options.own_predictor and plan.entries:
            by_id = {request.id: request for request in state.requests}
            features = _features([(by_id[entry.id], entry.tokens) for entry in plan.entries])
            self._planned = _Planned(state.now_s, features, frozenset(by_id))
        return plan

    def _choose(
        self, state: EngineState, decodes: list[RequestState], prompts: list[RequestState]
    ) -> tuple[list[RequestState], int]:
        """Prompts in the order in which they run, and how many of their tokens."""
        options, latency, now_s = self.options, state.latency, state.now_s
        if not prompts:
            return [], 0

        def predict_s(features: BatchFeatures) -> float:
            return options.safety * self.predictor.predict_s(features, latency)

        base_s = predict_s(_features([(request, 1) for request in decodes]))
        slack_s = min(map(decode_deadline_s, decodes), default=math.inf) - now_s
        tpot_s = min(request.terms.objectives.tpot_s for request in state.requests)
        window_s = max(base_s, slack_s) if decodes else tpot_s
        ranked = sort_prompts(
            prompts, now_s=now_s, base_s=base_s, window_s=window_s, latency=latency, aging_s=options.aging_s
        )
        if not decodes:
            slack_s = min((item.slack_s for item in ranked if item.level is not Level.LOST), default=math.inf)

        def chunker(items: Sequence[Ranked], slack_s: float) -> SlidingChunker:
            return SlidingChunker(
                predict_s=predict_s,
                now_s=now_s,
                decodes=decodes,
                line=PromptLine(_reachable(items, state)),
                slack_s=slack_s,
                limit_tokens=state.limits.max_step_tokens,
                least_tokens=options.least_tokens,
                grid_tokens=options.grid_tokens,
            )

        sliding = chunker(ranked, slack_s)
        pair = sliding.best() if options.sliding else sliding.greedy()
        at_risk = [item for item in ranked if item.level is Level.PROTECTED]
        if options.knapsack and _lets_miss(at_risk, sliding.finished(pair.first), pair.first_s):
            until_s = min(slack_s, min(item.slack_s for item in at_risk))
            chosen = choose(ranked, capacity_s=until_s - base_s)
            if chosen is not None:
                ids = {item.request.id for item in chosen}
                ranked = chosen + [item for item in ranked if item.request.id not in ids]
                pair = chunker(ranked, until_s).greedy()
        return [item.request for item in ranked], max(1, pair.first)

    def _learn(self, state: EngineState) -> None:
        """Time since the last plan is the time of its batch, unless the engine may have been idle in between."""
        planned = self._planned
        if planned is None or state.now_s <= planned.now_s:
            return
        if any(request.id in planned.ids for request in state.requests):
            self.predictor.observe(planned.features, state.now_s - planned.now_s, state.latency)
        self._planned = None


def _lets_miss(at_risk: Sequence[Ranked], finished: Sequence[RequestState], step_s: float) -> bool:
    """Whether a protected prompt is not complete in the step, or too late."""
    ids = {request.id for request in finished}
    return any(item.request.id not in ids or item.slack_s <= step_s for item in at_risk)


def _reachable(ranked: Sequence[Ranked], state: EngineState) -> list[RequestState]:
    """The first prompts that two steps could hold: with a sequence slot, and tokens for no more than two full steps."""
    residents = sum(request.resident for request in state.requests)
    slots, tokens = state.limits.max_sequences - residents, 2 * state.limits.max_step_tokens
    reachable: list[RequestState] = []
    for item in ranked:
        if tokens <= 0:
            break
        request = item.request
        if not request.resident:
            if slots <= 0:
                continue
            slots -= 1
        reachable.append(request)
        tokens -= request.pending_tokens
    return reachable


def _features(entries: Sequence[tuple[RequestState, int]]) -> BatchFeatures:
    prompt_tokens = decodes = decode_context = prompt_context = 0
    attention = 0.0
    for request, tokens in entries:
        if request.is_decode:
            decodes += 1
            decode_context += request.computed_tokens
        else:
            prompt_tokens += tokens
            prompt_context += request.computed_tokens
            attention += tokens * (request.computed_tokens + (tokens + 1) / 2)
    return BatchFeatures(
        prompt_tokens=prompt_tokens,
        decodes=decodes,
        decode_context=decode_context,
        attention=attention,
        prompt_context=prompt_context,
        sequences=len(entries),
    )
