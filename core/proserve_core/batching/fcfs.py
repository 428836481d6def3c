"""First come, first served, exactly as vLLM V1 schedules: the baseline, and what plain engines do.

Source: vLLM `v1/core/sched/scheduler.py`, `schedule()`. Residents first, in order of admission, each with as many
tokens as it needs within the step's tokens; when blocks run out the last resident is preempted, at the end the request
itself. Then, unless somebody was preempted in this step, waiting requests are admitted in order of arrival, each only
when its whole sequence fits (`scheduler_reserve_full_isl`); the first that does not fit ends the step. There is no time
budget, and classes and deadlines play no part. No parameters.

A preempted request returns to the front of vLLM's queue, so order of admission equals order of arrival, and
`EngineState.requests` has it. Not modelled: vLLM's block watermark (0 by default).
"""

from itertools import chain

from proserve_core.batching.decode_head import decode_head, leading_decodes
from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.state import BatchPlan, EngineState

_OPTIONS = FillOptions(waiting_preempts=False, preempt_self=True, admit_after_preemption=False)


class Fcfs:
    """Policy `fcfs`."""

    def plan(self, state: EngineState) -> BatchPlan:
        residents = state.requests.residents
        head = decode_head(leading_decodes(residents), state)
        order = chain(residents[head.count :], state.requests.waiting)
        return fill(state, order=order, residents=residents, options=_OPTIONS, head=head)
