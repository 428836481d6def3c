"""Shortest remaining prefill first: decodes, then prompts by the tokens they still have to compute.

Source: SRPF of the Sarathi-Serve and QoServe artifacts (microsoft/sarathi-serve). Most first tokens per second, and the
first step towards density; long prompts starve, classes and deadlines play no part. A started prompt has the shorter
rest the further it is and may still be overtaken by a shorter one.

Parameter: `step_tokens`, 512, new tokens in a step.
"""

from proserve_core.batching.fill import FillOptions, fill_ranked
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.state import BatchPlan, EngineState
from proserve_core.batching.step_tokens import StepTokensOptions

_OPTIONS = FillOptions()


class Srpf:
    """Policy `srpf`."""

    def __init__(self, options: StepTokensOptions | None = None) -> None:
        self.options = options or StepTokensOptions()

    def plan(self, state: EngineState) -> BatchPlan:
        columns, ranking = RequestColumns(state), Ranking()
        ranking.add(columns.decode, -columns.pending)
        ranking.add(~columns.decode, -columns.pending)
        return fill_ranked(state, columns, ranking, options=_OPTIONS, step_tokens=self.options.step_tokens)
