"""Shortest remaining prefill first: decodes, then prompts by the tokens they still have to compute.

Source: SRPF of the Sarathi-Serve and QoServe artifacts (microsoft/sarathi-serve). Most first tokens per second, and the
first step towards density; long prompts starve, classes and deadlines play no part. A started prompt has the shorter
rest the further it is and may still be overtaken by a shorter one.

Parameter: `step_tokens`, 512, new tokens in a step.
"""

from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.stages import stages
from proserve_core.batching.state import BatchPlan, EngineState, RequestState
from proserve_core.batching.step_tokens import StepTokensOptions

_OPTIONS = FillOptions()


class Srpf:
    """Policy `srpf`."""

    def __init__(self, options: StepTokensOptions | None = None) -> None:
        self.options = options or StepTokensOptions()

    def plan(self, state: EngineState) -> BatchPlan:
        parts = stages(state.requests)
        order = parts.decodes + sorted(parts.prefills + parts.waiting, key=_remaining)
        return fill(
            state,
            order=order,
            residents=[request for request in order if request.resident],
            options=_OPTIONS,
            step_tokens=self.options.step_tokens,
        )


def _remaining(request: RequestState) -> tuple[int, float]:
    return request.pending_tokens, request.arrival_s
