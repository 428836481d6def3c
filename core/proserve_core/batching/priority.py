"""Strict priority: heavier classes first, then order of arrival; nothing is due, nothing has a deadline.

The common baseline (vLLM and xLLM both call theirs `priority`), here with one order over residents and waiting
requests, so a heavy prompt runs before a light decode when the step's tokens do not suffice for both. On block shortage
the lightest, latest residents are preempted, for a heavier waiting request too (vLLM V0; V1 preempts only for
residents). No time budget, no parameters. It starves light classes: that is what it is here to show.
"""

from proserve_core.batching.fill import FillOptions, fill_ranked
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.state import BatchPlan, EngineState

_OPTIONS = FillOptions()


class Priority:
    """Policy `priority`."""

    def plan(self, state: EngineState) -> BatchPlan:
        if not state.requests:
            return BatchPlan()
        columns, ranking = RequestColumns(state), Ranking()
        for weight in columns.weights():
            ranking.add(columns.weight == weight, -columns.arrival_s)
        return fill_ranked(state, columns, ranking, options=_OPTIONS)
