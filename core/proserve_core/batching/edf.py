"""Earliest deadline first: prompts and decodes in one order by the deadline of their next token.

Source: the textbook rule, as xLLM's `deadline` order has it, with TDG deadlines. Optimal while all deadlines can be
met; under overload what is late has the earliest deadlines, so the engine works on what earns nothing any more and
everything else becomes late, too. It is here to show that.

On block shortage the latest deadlines are preempted, for residents only, as in vLLM V1. In xLLM a waiting request takes
blocks, too; but two late requests then take them from each other for every token, because each emitted token puts its
request behind the other, and the engine does little else than compute them again (mooncake-conversation, H100, at 1.2
times saturation: hundreds of thousands of steps).

Parameter: `step_tokens`, 2048, new tokens in a step. Of 512, 2048 and 8192 it is best or second: .448 / .539 / .563 of
the gain on azure-conv-2023 (H100, Llama-3.1-8B, saturation), .486 / .493 / .475 and .120 / .136 / .139 on
mooncake-conversation at 0.8 and 1.0.
"""

from proserve_core.batching.fill import FillOptions, fill_ranked
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.state import BatchPlan, EngineState
from proserve_core.batching.step_tokens import StepTokensOptions

_OPTIONS = FillOptions(waiting_preempts=False)


class EdfOptions(StepTokensOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `edf`."""

    step_tokens: int = 2048


class Edf:
    """Policy `edf`."""

    def __init__(self, options: StepTokensOptions | None = None) -> None:
        self.options = options or EdfOptions()

    def plan(self, state: EngineState) -> BatchPlan:
        columns, ranking = RequestColumns(state), Ranking()
        ranking.add(columns.everybody, -columns.slack_s)
        return fill_ranked(state, columns, ranking, options=_OPTIONS, step_tokens=self.options.step_tokens)
