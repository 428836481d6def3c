"""What a request's blocks on the host are worth beside those of others: gain per token that it can still bring.

`offload.copy_worth` asks for gain per engine second. A step gives every decode one token, so between requests the gain
per token says the same, and it is known: a token on time earns its class's gain. A request that is late earns again
once it has caught up, a little with each step that is shorter than its time per token; if that takes longer than it is
going to run, it earns nothing any more.
"""

from proserve_core.batching.state import RequestState

LEAST_OUTPUT = 32
"""Output tokens that a request is taken to have before it, at least; else as many as it has behind it."""


def gain_left(state: RequestState, *, now_s: float, step_s: float) -> float:
    """Gain per token of the request, 0 if it cannot be on time any more.

    Args:
        step_s: time between its tokens while it runs.
    """
    late_s = now_s - state.next_deadline_s()
    caught_up_s = max(0.0, state.terms.objectives.tpot_s - step_s) * likely_tokens(state)
    return state.next_token_gain() if late_s <= caught_up_s else 0.0


def likely_tokens(state: RequestState) -> int:
    """Output tokens that the request is taken to have before it."""
    return max(state.emitted_tokens, LEAST_OUTPUT)
