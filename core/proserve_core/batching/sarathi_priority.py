"""Sarathi-Priority: Sarathi's batches, each of its three groups ordered by weight, then arrival.

Source: a baseline of ProServe (arXiv 2512.12928, evaluation), which gives no definition: Sarathi-Serve with strict
priorities, as we read it. Decodes stay ahead of prompts and started prompts ahead of waiting ones; the lightest, latest
resident is preempted. Light prompts starve while heavy ones keep coming.

Parameter: `step_tokens`, see `sarathi`.
"""

from proserve_core.batching.fill import FillOptions, fill_ranked
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.state import BatchPlan, EngineState
from proserve_core.batching.step_tokens import StepTokensOptions

_OPTIONS = FillOptions(waiting_preempts=False, preempt_self=True, admit_after_preemption=False)


class SarathiPriority:
    """Policy `sarathi-priority`."""

    def __init__(self, options: StepTokensOptions | None = None) -> None:
        self.options = options or StepTokensOptions()

    def plan(self, state: EngineState) -> BatchPlan:
        columns, ranking = RequestColumns(state), Ranking()
        started = columns.resident & ~columns.decode
        for group in (columns.decode, started, ~columns.resident):
            for weight in columns.weights():
                ranking.add(group & (columns.weight == weight), -columns.arrival_s)
        return fill_ranked(state, columns, ranking, options=_OPTIONS, step_tokens=self.options.step_tokens)
