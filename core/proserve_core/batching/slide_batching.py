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
them. Other traces, without such draws: the ablations in docs/results/batching.md.
"""

import math
from enum import StrEnum

import msgspec
import numpy as np

from proserve_core.batching.fill import FillOptions, fill_ranked
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import Column, Mask, RequestColumns
from proserve_core.batching.standing import RankedStep
from proserve_core.batching.state import BatchPlan, EngineState


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


_NO_TIME_S = 1e-9
"""Least est that a density is computed with: a fitted model may have coefficients of 0."""


class SlideBatching:
    """Policy `slide-batching`."""

    def __init__(self, options: SlideOptions | None = None) -> None:
        self.options = options or SlideOptions()
        self.ranked: RankedStep | None = None
        """The last plan's order."""
        self._fill = FillOptions(skip=self.options.skip, min_chunk=self.options.min_chunk)

    def plan(self, state: EngineState) -> BatchPlan:
        if not state.requests:
            return BatchPlan()
        options, latency = self.options, state.latency
        columns = RequestColumns(state)
        remaining_s = columns.slack_s if options.deadline is DeadlineRule.FIXED else columns.first_token_slack_s
        est_s = columns.next_token_s
        feasible = remaining_s >= est_s + latency.constant_s
        tightest_s = float(np.min(remaining_s, where=feasible, initial=math.inf))
        floor_s = options.budget_floor * float(columns.tpot_s.min())
        budget_s = max(tightest_s, floor_s) if tightest_s < math.inf else floor_s
        drain_s = float(est_s.sum()) * budget_s / max(budget_s - latency.constant_s, 1e-6)
        ranking = self._rank(columns, remaining_s, est_s, remaining_s < options.urgency * drain_s, state.now_s)
        self.ranked = RankedStep(
            columns=columns, ranking=ranking, figures={"remaining_s": remaining_s, "cost_s": est_s}
        )
        return fill_ranked(state, columns, ranking, options=self._fill, budget_s=budget_s)

    def _rank(self, columns: RequestColumns, remaining_s: Column, est_s: Column, urgent: Mask, now_s: float) -> Ranking:
        """Those brought forward, urgent decodes, starved prompts, urgent prompts, then the normal ones."""
        options = self.options
        density = columns.next_gain / np.maximum(est_s, _NO_TIME_S)
        ranking = Ranking()
        if options.starvation is StarvationRule.WAIT:
            front = ~columns.decode & (columns.emitted == 0) & (columns.arrival_s < now_s - options.starvation_wait_s)
            ranking.add(front, -remaining_s, "brought forward")
            urgent, normal = urgent & ~front, ~urgent & ~front
        else:
            normal = ~urgent
        if options.decodes_first:
            ranking.add(urgent & columns.decode, density, "urgent decode")
            urgent = urgent & ~columns.decode
        if options.starvation is StarvationRule.LATENESS:
            starved = urgent & ~columns.decode & (remaining_s < -options.starvation_slos * columns.ttft_s)
            ranking.add(starved, -remaining_s, "starved")
            urgent = urgent & ~starved
        ranking.add(urgent, density, "urgent")
        ranking.add(normal, -remaining_s, "normal")
        return ranking
