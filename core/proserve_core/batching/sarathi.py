"""Sarathi-FCFS: stall-free batches of a fixed number of tokens, first come, first served.

Source: Sarathi-Serve (OSDI '24) and its code (microsoft/sarathi-serve, main branch). A step has `step_tokens` tokens:
first one for each decode, then chunks of the prompts that are started, then waiting prompts in order of arrival, the
last one cut to what is left. When blocks run out the last resident is preempted, for residents only, and nobody is
admitted. Deadlines and classes play no part.

Parameter: `step_tokens`, 512 as in its code. Deviation: its limit of 128 sequences is the engine's here.
"""

from itertools import chain

from proserve_core.batching.decode_head import decode_head
from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.stages import stages
from proserve_core.batching.state import BatchPlan, EngineState
from proserve_core.batching.step_tokens import StepTokensOptions

_OPTIONS = FillOptions(waiting_preempts=False, preempt_self=True, admit_after_preemption=False)


class Sarathi:
    """Policy `sarathi`."""

    def __init__(self, options: StepTokensOptions | None = None) -> None:
        self.options = options or StepTokensOptions()

    def plan(self, state: EngineState) -> BatchPlan:
        parts = stages(state.requests)
        residents = parts.decodes + parts.prefills
        head = decode_head(parts.decodes, state, step_tokens=self.options.step_tokens)
        return fill(
            state,
            order=chain(residents[head.count :], state.requests.waiting),
            residents=residents,
            options=_OPTIONS,
            step_tokens=self.options.step_tokens,
            head=head,
        )
