"""FairBatching: a time budget from the decodes' slack, and prompts ahead of decodes that can wait.

Source: FairBatching (arXiv 2510.14392). Slack is the time to a request's next token deadline. The step may last as long
as the tightest slack of a decode, at least the tightest TPOT. Decodes with less slack than that budget plus one TPOT
can't wait for another step and come first, then prompts, then the other decodes, each group by ascending slack.

Deviations: step times by our latency model (the paper's is linear in new tokens and total context); without decodes
nothing bounds the step but the engine's tokens. Its admission control belongs to the router and is not here.
No parameters.
"""

import math

from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.stages import stages
from proserve_core.batching.state import BatchPlan, EngineState, RequestState

_OPTIONS = FillOptions()


class FairBatching:
    """Policy `fair-batching`."""

    def __init__(self) -> None:
        self.urgent_until_s = -math.inf
        """Decodes with a deadline before this are due, by the last plan; on the engine's clock."""

    def plan(self, state: EngineState) -> BatchPlan:
        parts, now_s = stages(state.requests), state.now_s
        decodes = sorted(parts.decodes, key=RequestState.next_deadline_s)
        prompts = sorted(parts.prefills + parts.waiting, key=RequestState.next_deadline_s)
        if decodes:
            tpot_s = min(request.terms.objectives.tpot_s for request in decodes)
            budget_s = max(decodes[0].next_deadline_s() - now_s, tpot_s)
            self.urgent_until_s = now_s + budget_s + tpot_s
            urgent = [request for request in decodes if request.next_deadline_s() < self.urgent_until_s]
        else:
            budget_s, urgent = math.inf, []
        order = urgent + prompts + decodes[len(urgent) :]
        return fill(
            state,
            order=order,
            residents=[request for request in order if request.resident],
            options=_OPTIONS,
            budget_s=budget_s,
        )
