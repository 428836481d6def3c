"""Earliest deadline first: prompts and decodes in one order by the deadline of their next token.

Source: the textbook rule, as xLLM's `deadline` order has it, with TDG deadlines. Optimal while all deadlines can be
met; under overload what is late has the earliest deadlines, so the engine works on what earns nothing any more and
everything else becomes late, too. It is here to show that. Blocks go from the latest deadline to the earliest.

Parameter: `step_tokens`, 512, new tokens in a step: without it a long prompt would stall all decodes.
"""

from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.state import BatchPlan, EngineState, RequestState
from proserve_core.batching.step_tokens import StepTokensOptions

_OPTIONS = FillOptions()


class Edf:
    """Policy `edf`."""

    def __init__(self, options: StepTokensOptions | None = None) -> None:
        self.options = options or StepTokensOptions()

    def plan(self, state: EngineState) -> BatchPlan:
        order = sorted(state.requests, key=RequestState.next_deadline_s)
        return fill(
            state,
            order=order,
            residents=[request for request in order if request.resident],
            options=_OPTIONS,
            step_tokens=self.options.step_tokens,
        )
