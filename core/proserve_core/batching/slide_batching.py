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

Defaults are the best measured, on the first 1500 requests of azure-conv-2023 (H100, Llama-3.1-8B, 256 sequences, three
draws of classes with weights 2 and 1), TDG at 0.8 / 1.2 / 1.5 times saturation. Starvation decides: `lateness`, the
code's rule, puts every prompt that is late by one TTFT ahead of those that can still be met (.999 / .435 / -), `wait`
does so less (- / .559 / -), `off` gives .999 / .893 / .783. Without it the deadline rule (.998 / .891 / .783), skipping
(.999 / .894 / .781), decodes first (no difference at 1.2) and urgency 0.8 (.999 / .894 / .780) are within noise, so
they stay as in the code, with deadlines as gain counts them.
"""

from enum import StrEnum

import msgspec

from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.state import BatchPlan, EngineState, RequestState


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


# Groups of the order; within a group the key ascends.
_FRONT, _DECODES, _STARVED, _URGENT, _NORMAL = range(5)


class SlideBatching:
    """Policy `slide-batching`."""

    def __init__(self, options: SlideOptions | None = None) -> None:
        self.options = options or SlideOptions()
        self._fill = FillOptions(skip=self.options.skip, min_chunk=self.options.min_chunk)

    def plan(self, state: EngineState) -> BatchPlan:
        order, budget_s = self._order(state)
        residents = [request for request in order if request.resident]
        return fill(state, order=order, residents=residents, options=self._fill, budget_s=budget_s)

    def _order(self, state: EngineState) -> tuple[list[RequestState], float]:
        options, latency, now_s = self.options, state.latency, state.now_s
        token_s, attention_s = latency.linear_token_s, latency.attention_s
        context_s, sequence_s = latency.context_s, latency.sequence_s
        constant_s = latency.constant_s
        from_first_token = options.deadline is DeadlineRule.FIRST_TOKEN
        queue_s = 0.0
        tightest_tpot_s = tightest_s = float("inf")
        rows: list[tuple[float, float, bool, RequestState]] = []
        for request in state.requests:
            computed, emitted = request.computed_tokens, request.emitted_tokens
            pending = request.prompt_tokens + emitted - computed
            objectives = request.terms.objectives
            tpot_s = objectives.tpot_s
            if tpot_s < tightest_tpot_s:
                tightest_tpot_s = tpot_s
            if from_first_token and request.first_token_s is not None:
                remaining_s = request.first_token_s + emitted * tpot_s - now_s
            else:
                remaining_s = request.arrival_s + objectives.ttft_s + emitted * tpot_s - now_s
            decode = pending == 1 and emitted > 0 and request.resident
            if decode:
                est_s = token_s + sequence_s + context_s * computed
            else:
                est_s = token_s * pending + attention_s * pending * (pending + 2 * computed) + sequence_s
            queue_s += est_s
            if est_s + constant_s <= remaining_s < tightest_s:
                tightest_s = remaining_s
            rows.append((remaining_s, est_s, decode, request))

        floor_s = options.budget_floor * tightest_tpot_s
        budget_s = max(tightest_s, floor_s) if tightest_s < float("inf") else floor_s
        drain_s = queue_s * budget_s / max(budget_s - constant_s, 1e-6)
        boundary_s = options.urgency * drain_s
        starvation = options.starvation
        keyed: list[tuple[int, float, int]] = []
        for index, (remaining_s, est_s, decode, request) in enumerate(rows):
            if (
                starvation is StarvationRule.WAIT
                and not request.emitted_tokens
                and now_s - request.arrival_s > options.starvation_wait_s
            ):
                keyed.append((_FRONT, remaining_s, index))
            elif remaining_s >= boundary_s:
                keyed.append((_NORMAL, remaining_s, index))
            else:
                terms = request.terms
                if (
                    starvation is StarvationRule.LATENESS
                    and not decode
                    and remaining_s < -options.starvation_slos * terms.objectives.ttft_s
                ):
                    keyed.append((_STARVED, remaining_s, index))
                    continue
                gain = terms.weight * (terms.output_token_gain if request.emitted_tokens else terms.first_token_gain)
                group = _DECODES if decode and options.decodes_first else _URGENT
                keyed.append((group, -gain / est_s, index))
        keyed.sort()
        requests = state.requests
        return [requests[index] for _, _, index in keyed], budget_s
