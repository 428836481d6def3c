"""The longest step that is of use when sequence slots or KV blocks are short, not time.

A resident holds its slot and blocks for one step per output token. With S residents, outputs of L tokens and prompts of
P, requests end at S / (L T) per second in steps of T: longer steps serve fewer. The engine has time for 1 / E of them,
E being all work of one request. Both limits meet in the step in which a full house decodes and prompts come in as fast
as outputs end, P / L prompt tokens for each decode:

    T = time of a step with S decodes and S P / L prompt tokens.

Shorter steps waste time on their constants, longer ones waste room: all room is taken, prompts have to wait for it, and
decodes meanwhile take steps for which there is too little other work. Where nothing is short, T is longer than any step
that the policy wants. P / L is the mean over the present residents: they are drawn in proportion to L, the time that
they stay, which makes the mean of P / L the ratio of the means of those that come.

Room that is not short yet may become so: it does if what arrives, `flow` output tokens per second, fills the house,
that is in steps longer than S / flow (Little's law). Up to there, and while everybody present fits, steps may be longer
than T. A burst that fits is no flow: it is averaged over `FLOW_MEMORY_S`, from nothing.

Source: our own. Measured (docs/batching.md): 1 to 4 points of gain where slots or blocks are short. Tried before it:
keeping blocks free for the growth of residents, a price on block time in the density, and short steps only after blocks
had run out.
"""

import math

import numpy as np

from proserve_core.batching.request_columns import Column
from proserve_core.batching.state import EngineLimits
from proserve_core.latency import LatencyModel

FLOW_MEMORY_S = 15.0
"""Over about so long arrivals are averaged. With 10 a burst of few long prompts counts as a flow (0.5 points lost),
with 20 a flood of long outputs is noticed late (1.5 points at deepseek-r1 2.0 with 256 sequences)."""


class OutputFlow:
    """Output tokens that arriving requests will need, per second."""

    def __init__(self) -> None:
        self.tokens_per_s = 0.0
        self._noted_s = -np.inf

    def note(self, tokens: float, *, now_s: float) -> None:
        """Requests that need so many tokens have arrived since the last note."""
        if self._noted_s > -np.inf:
            self.tokens_per_s *= math.exp(-(now_s - self._noted_s) / FLOW_MEMORY_S)
        self.tokens_per_s += tokens / FLOW_MEMORY_S
        self._noted_s = now_s

    def filling_s(self, residents: float) -> float:
        """Length of the steps in which the flow keeps so many residents there."""
        return residents / self.tokens_per_s if self.tokens_per_s > 0 else math.inf


def room_for(residents: int, *, limits: EngineLimits, free_blocks: int) -> float:
    """How many times the present residents (at least one) fit into the engine's slots and blocks."""
    used_blocks = max(1, limits.blocks - free_blocks)
    return min(limits.max_sequences / residents, limits.blocks / used_blocks)


def full_house_s(*, prompt: Column, output: Column, context: Column, room: float, latency: LatencyModel) -> float:
    """Seconds of a step in which a full house decodes and replaces itself.

    Args:
        prompt: prompt tokens of the present residents.
        output: expected tokens of their whole outputs.
        context: their present tokens.
        room: how many times they fit (`room_for`).
    """
    prompt_tokens = prompt / np.maximum(1.0, output)
    sequences = round(room * len(prompt))
    return latency.sums_s(
        sequences + room * float(prompt_tokens.sum()),
        room * float((prompt_tokens * prompt).sum()),
        room * float(context.sum()),
        sequences,
    )
