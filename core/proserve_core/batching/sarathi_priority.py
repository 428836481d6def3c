"""Sarathi-Priority: Sarathi's batches, each of its three groups ordered by weight, then arrival.

Source: a baseline of ProServe (arXiv 2512.12928, evaluation), which gives no definition: Sarathi-Serve with strict
priorities, as we read it. Decodes stay ahead of prompts and started prompts ahead of waiting ones; the lightest, latest
resident is preempted. Light prompts starve while heavy ones keep coming.

Parameter: `step_tokens`, see `sarathi`.
"""

from itertools import chain

from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.stages import stages
from proserve_core.batching.state import BatchPlan, EngineState, RequestState
from proserve_core.batching.step_tokens import StepTokensOptions

_OPTIONS = FillOptions(waiting_preempts=False, preempt_self=True, admit_after_preemption=False)


class SarathiPriority:
    """Policy `sarathi-priority`."""

    def __init__(self, options: StepTokensOptions | None = None) -> None:
        self.options = options or StepTokensOptions()

    def plan(self, state: EngineState) -> BatchPlan:
        parts = stages(state.requests)
        residents = sorted(parts.decodes, key=_rank) + sorted(parts.prefills, key=_rank)
        return fill(
            state,
            order=chain(residents, sorted(parts.waiting, key=_rank)),
            residents=residents,
            options=_OPTIONS,
            step_tokens=self.options.step_tokens,
        )


def _rank(request: RequestState) -> tuple[float, float]:
    return -request.terms.weight, request.arrival_s
