"""FairBatching: a time budget from the decodes' slack, and prompts ahead of decodes that can wait.

Source: FairBatching (arXiv 2510.14392). Slack is the time to a request's next token deadline. The step may last as long
as the tightest slack of a decode, at least the tightest TPOT. Decodes with less slack than that budget plus one TPOT
can't wait for another step and come first, then prompts, then the other decodes, each group by ascending slack.

Deviations: step times by our latency model (the paper's is linear in new tokens and total context); without decodes
nothing bounds the step but the engine's tokens. Its admission control belongs to the router and is not here.
No parameters.
"""

import math

from proserve_core.batching.fill import FillOptions, fill_ranked
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.state import BatchPlan, EngineState

_OPTIONS = FillOptions()


class FairBatching:
    """Policy `fair-batching`."""

    def __init__(self) -> None:
        self.urgent_until_s = -math.inf
        """Decodes with a deadline before this are due, by the last plan; on the engine's clock."""

    def plan(self, state: EngineState) -> BatchPlan:
        columns, ranking = RequestColumns(state), Ranking()
        decode, slack_s = columns.decode, columns.slack_s
        if decode.any():
            tpot_s = float(columns.tpot_s[decode].min())
            budget_s = max(float(slack_s[decode].min()), tpot_s)
            self.urgent_until_s = state.now_s + budget_s + tpot_s
            urgent = decode & (slack_s < budget_s + tpot_s)
        else:
            budget_s, urgent = math.inf, decode
        ranking.add(urgent, -slack_s)
        ranking.add(~decode, -slack_s)
        ranking.add(decode & ~urgent, -slack_s)
        return fill_ranked(state, columns, ranking, options=_OPTIONS, budget_s=budget_s)
