"""Density: gain of the next token per second of engine time that it needs, highest first.

Source: the `density` order of xLLM, the urgent half of SlideBatching (ProServe, arXiv 2512.12928, section 4.2) on its
own, in steps of a fixed number of tokens. A prompt is charged its whole rest, a decode one token, by the marginal costs
of the latency model; so decodes come first nearly always, then short and heavy prompts. Blind to deadlines: good under
overload, where what is dense is worth most, and behind deadline orders below it.

Parameter: `step_tokens`, 512, new tokens in a step; larger steps make decodes late.
"""

import numpy as np

from proserve_core.batching.fill import FillOptions, fill_ranked
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.state import BatchPlan, EngineState, RequestState
from proserve_core.batching.step_tokens import StepTokensOptions
from proserve_core.latency import LatencyModel

_OPTIONS = FillOptions()
_NO_TIME_S = 1e-9
"""Least cost that a density is computed with: a fitted model may have coefficients of 0."""


class Density:
    """Policy `density`."""

    def __init__(self, options: StepTokensOptions | None = None) -> None:
        self.options = options or StepTokensOptions()

    def plan(self, state: EngineState) -> BatchPlan:
        columns, ranking = RequestColumns(state), Ranking()
        ranking.add(columns.everybody, columns.next_gain / np.maximum(columns.next_token_s, _NO_TIME_S))
        return fill_ranked(state, columns, ranking, options=_OPTIONS, step_tokens=self.options.step_tokens)


def density(request: RequestState, latency: LatencyModel) -> float:
    """Gain per second of engine time of the request's next token."""
    computed = request.computed_tokens
    if request.is_decode:
        cost_s = latency.decode_s(computed)
    else:
        cost_s = latency.prefill_s(request.pending_tokens + request.host_tokens, computed - request.host_tokens)
    return request.next_token_gain() / max(cost_s, _NO_TIME_S)
