"""SlideBatching: a boundary between deadline-first and density-first that slides with the load.

Source: ProServe (arXiv 2512.12928), section 4.2 and Algorithm 1; where the paper and its authors' code (xLLM,
`multi_slo_and_prio`) differ, the code's rules, with the difference as an option.

Each step: `remaining` is the time to a request's next deadline, `est` the marginal time of all it has to compute before
its next token. The time budget is the tightest `remaining` that can still be met, at least `budget_floor` of the
tightest TPOT. PHI, the time in which the whole queue drains in steps of that length, slides the boundary: a request
with `remaining < urgency * PHI` is urgent, the rest normal. Urgent requests come first, by density (gain of the next
token over `est`), normal ones by `remaining`. The filler takes them while the predicted step fits the budget.

Deviations: the code has an infinite budget when no deadline can be met any more, which makes the longest steps when the
engine is furthest behind; here the floor applies. Admission needs blocks for the whole sequence, because vLLM does.
Step times come from the model with the knee (`proserve_core.latency`), `est` from its slope beyond the knee.

Defaults are the best measured, on the first 1500 requests of azure-conv-2023 (H100, Llama-3.1-8B, 256 sequences,
weights 2 and 1), TDG at 0.8 / 1.2 / 1.5 times saturation. Starvation decides: `off` gives .999 / .893 / .783 (mean of
three draws of the classes); `lateness`, the code's rule, puts every prompt that is late by one TTFT ahead of those that
can still be met: .435 at 1.2 in one draw, where `wait` gives .559 and `off` .890. Beside `off` the other switches are
within noise (three draws: deadline from the first token .998 / .891 / .783, skipping .999 / .894 / .781, urgency 0.8
.999 / .894 / .780; one draw at 1.2: one urgent list .890), so they stay as in the code, with deadlines as gain counts
them. Other traces and longer outputs were not measured.
"""

import math
from collections.abc import Iterator
from enum import StrEnum

import msgspec
import numpy as np

from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.state import BatchPlan, EngineState, RequestState
from proserve_core.batching.waiting_table import Column, WaitingTable, WaitingView


class DeadlineRule(StrEnum):
    """What a decode's next deadline counts from."""

    FIXED = "fixed"
    """The arrival: the TDG deadline (paper)."""
    FIRST_TOKEN = "first-token"
    """The first token's real time: lateness of the first token moves all deadlines (code)."""


class StarvationRule(StrEnum):
    """Which late prompts are brought forward."""

    LATENESS = "lateness"
    """Late by more than `starvation_slos` TTFTs: first among the urgent prompts (code)."""
    WAIT = "wait"
    """Waiting for the first token longer than `starvation_wait_s`: ahead of everybody (paper)."""
    OFF = "off"
    """None; late prompts wait until the load falls."""


class SlideOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `slide-batching`."""

    urgency: float = 1.0
    """Share of PHI below which a request is urgent (alpha in the paper, lambda in the code); 0.8-1.0 is best there."""
    budget_floor: float = 0.65
    """Shortest step that is planned for, in units of the tightest TPOT."""
    deadline: DeadlineRule = DeadlineRule.FIXED
    decodes_first: bool = True
    """Urgent decodes come before urgent prompts (code); else one list by density (paper)."""
    starvation: StarvationRule = StarvationRule.OFF
    starvation_slos: float = 1.0
    """For `lateness`, in units of the request's TTFT."""
    starvation_wait_s: float = 10.0
    """For `wait`."""
    skip: bool = False
    """Go on behind a request that does not fit the step (neither paper nor code)."""
    min_chunk: int = 51
    """Smallest part of a prompt that is started, tokens."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {rule}, got {value}"
            for name, value, good, rule in (
                ("urgency", self.urgency, self.urgency >= 0, "at least 0"),
                ("budget_floor", self.budget_floor, self.budget_floor > 0, "above 0"),
                ("starvation_slos", self.starvation_slos, self.starvation_slos >= 0, "at least 0"),
                ("starvation_wait_s", self.starvation_wait_s, self.starvation_wait_s >= 0, "at least 0"),
                ("min_chunk", self.min_chunk, self.min_chunk >= 1, "at least 1"),
            )
            if not good
        ]
        if problems:
            raise ValueError("; ".join(problems))


# Groups of the order. Rows sort by group, key, arrival.
_FRONT, _DECODES, _STARVED, _URGENT, _NORMAL = range(5)
_Row = tuple[int, float, float, int]
"""Group, key, arrival, position among the residents or among the waiting."""
_PART = 128
"""Waiting requests that are turned from columns into rows at a time."""
_NO_TIME_S = 1e-9
"""Least est that a density is computed with: a fitted model may have coefficients of 0."""


class SlideBatching:
    """Policy `slide-batching`."""

    def __init__(self, options: SlideOptions | None = None) -> None:
        self.options = options or SlideOptions()
        self._fill = FillOptions(skip=self.options.skip, min_chunk=self.options.min_chunk)
        self._table = WaitingTable()

    def plan(self, state: EngineState) -> BatchPlan:
        options, latency, now_s = self.options, state.latency, state.now_s
        constant_s = latency.constant_s
        residents = [request for request in state.requests if request.resident]
        waiting = [request for request in state.requests if not request.resident]
        measured, queue_s, tightest_s, tpot_s = self._measure(state, residents)
        if waiting:
            view = self._table.view(waiting=waiting, residents=residents)
            deadlines_s = view.deadline_s if options.deadline is DeadlineRule.FIXED else view.first_token_deadline_s
            waiting_remaining_s, waiting_est_s = deadlines_s - now_s, view.est_s(latency)
            queue_s += float(waiting_est_s.sum())
            tpot_s = min(tpot_s, float(view.tpot_s.min()))
            feasible = waiting_remaining_s >= waiting_est_s + constant_s
            tightest_s = min(tightest_s, float(np.min(waiting_remaining_s, where=feasible, initial=math.inf)))
        floor_s = options.budget_floor * tpot_s
        budget_s = max(tightest_s, floor_s) if tightest_s < math.inf else floor_s
        boundary_s = options.urgency * queue_s * budget_s / max(budget_s - constant_s, 1e-6)

        rows = sorted(
            row if remaining_s < boundary_s or row[0] == _FRONT else (_NORMAL, remaining_s, row[2], row[3])
            for remaining_s, row in measured
        )
        ordered = [residents[row[3]] for row in rows]
        if not waiting:
            self._table.clear()
            return fill(state, order=ordered, residents=ordered, options=self._fill, budget_s=budget_s)

        def order() -> Iterator[RequestState]:
            """Both merged; lazy, so the waiting are ranked only if one of them may be admitted."""
            ranked = self._rank_waiting(view, waiting_remaining_s, waiting_est_s, boundary_s, now_s)
            head = next(ranked, None)
            for row, resident in zip(rows, ordered, strict=True):
                while head is not None and head < row:
                    yield waiting[head[3]]
                    head = next(ranked, None)
                yield resident
            while head is not None:
                yield waiting[head[3]]
                head = next(ranked, None)

        return fill(state, order=order(), residents=ordered, options=self._fill, budget_s=budget_s)

    def _measure(
        self, state: EngineState, residents: list[RequestState]
    ) -> tuple[list[tuple[float, _Row]], float, float, float]:
        """Each resident's remaining time and its row if it is urgent; sum of est, tightest remaining that can be met,
        least TPOT. One pass: this is the inner loop of a plan."""
        options, latency, now_s = self.options, state.latency, state.now_s
        decode_s, context_s = latency.linear_token_s + latency.sequence_s, latency.context_s
        constant_s = latency.constant_s
        from_first_token = options.deadline is DeadlineRule.FIRST_TOKEN
        lateness = options.starvation is StarvationRule.LATENESS
        waited_since_s = now_s - options.starvation_wait_s if options.starvation is StarvationRule.WAIT else -math.inf
        decodes = _DECODES if options.decodes_first else _URGENT
        measured: list[tuple[float, _Row]] = []
        queue_s = 0.0
        tightest_s = least_tpot_s = math.inf
        for position, request in enumerate(residents):
            computed, emitted, arrival_s = request.computed_tokens, request.emitted_tokens, request.arrival_s
            pending = request.prompt_tokens + emitted - computed
            terms = request.terms
            objectives = terms.objectives
            tpot_s = objectives.tpot_s
            if from_first_token and request.first_token_s is not None:
                remaining_s = request.first_token_s + emitted * tpot_s - now_s
            else:
                remaining_s = arrival_s + objectives.ttft_s + emitted * tpot_s - now_s
            if pending == 1 and emitted:
                est_s = decode_s + context_s * computed
                row = (decodes, -terms.weight * terms.output_token_gain / max(est_s, _NO_TIME_S), arrival_s, position)
            else:
                est_s = latency.prefill_s(pending, computed)
                if not emitted and arrival_s < waited_since_s:
                    row = (_FRONT, remaining_s, arrival_s, position)
                elif lateness and remaining_s < -options.starvation_slos * objectives.ttft_s:
                    row = (_STARVED, remaining_s, arrival_s, position)
                else:
                    row = (_URGENT, -request.next_token_gain() / max(est_s, _NO_TIME_S), arrival_s, position)
            queue_s += est_s
            if est_s + constant_s <= remaining_s < tightest_s:
                tightest_s = remaining_s
            if tpot_s < least_tpot_s:
                least_tpot_s = tpot_s
            measured.append((remaining_s, row))
        return measured, queue_s, tightest_s, least_tpot_s

    def _rank_waiting(
        self, view: WaitingView, remaining_s: Column, est_s: Column, boundary_s: float, now_s: float
    ) -> Iterator[_Row]:
        """Rows of the waiting requests, most important first: the same rules by column."""
        options = self.options
        urgent = remaining_s < boundary_s
        group = np.where(urgent, _URGENT, _NORMAL)
        if options.starvation is StarvationRule.LATENESS:
            group[urgent & (remaining_s < -options.starvation_slos * view.ttft_s)] = _STARVED
        elif options.starvation is StarvationRule.WAIT:
            group[(view.arrival_s < now_s - options.starvation_wait_s) & (view.emitted == 0)] = _FRONT
        key = np.where(group == _URGENT, -view.gain / np.maximum(est_s, _NO_TIME_S), remaining_s)
        index = np.lexsort((view.arrival_s, key, group))
        for start in range(0, len(index), _PART):
            part = index[start : start + _PART]
            yield from zip(
                group[part].tolist(),
                key[part].tolist(),
                view.arrival_s[part].tolist(),
                part.tolist(),
                strict=True,
            )
