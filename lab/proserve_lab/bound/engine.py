"""What a step takes out of an engine, as amounts that a fluid relaxation may add up.

Each coefficient is at most what the replica charges, whatever the chunks are, and such that one share describes a piece
of work in all resources at once:

- A chunk of q tokens after x cached ones is the share `(g1*q + c*(q^2+2qx)) / (g1*P + c*P^2)` of a prefill of P tokens.
  That is exact beyond the knee. Early chunks hold more tokens than their share and late ones fewer, at least
  `(g1 + c*P) / (g1 + 2*c*P)` of it; the attention of early chunks is less than their share, so at the floor, where
  tokens are free, a prefill is charged its sequence only.
- A decode token at context x costs `g1 + e + min(d*x, c*x^2)`. The minimum covers a request that lost its blocks: its
  next token comes from computing x+1 tokens again, and that work can be cut into shares of this cost.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.batching import EngineLimits
from proserve_core.latency import LatencyModel

Column = NDArray[np.float64]

RESOURCES = 4
BEYOND, FLOOR, SEQUENCES, TOKENS = range(RESOURCES)
"""Engine time counted beyond the knee, engine time counted at the floor, entries of steps, new tokens."""


class EngineCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Costs and limits of `replicas` equal engines."""

    latency: LatencyModel
    limits: EngineLimits
    replicas: int

    @property
    def constant_s(self) -> float:
        """Least time of a step, counted beyond the knee."""
        return self.latency.host_s + self.latency.linear_base_s

    def prefill(self, prompt: Column) -> Column:
        """What the whole prefill of each prompt takes of each resource, one row a resource."""
        linear, quadratic = self.latency.linear_token_s, self.latency.attention_s * prompt
        sequence = np.full_like(prompt, self.latency.sequence_s)
        # Without any cost per token, shares are of attention, and without that too no chunk needs to hold a token.
        rate = linear + 2 * quadratic
        tokens = np.divide(prompt * (linear + quadratic), rate, out=np.zeros_like(prompt), where=rate > 0)
        return np.stack([(linear + quadratic) * prompt + sequence, sequence, np.ones_like(prompt), tokens])

    def decode_s(self, context: Column) -> Column:
        """What a decode token takes at the floor; beyond the knee it takes `linear_token_s` more."""
        latency = self.latency
        return latency.sequence_s + np.minimum(latency.context_s * context, latency.attention_s * context * context)

    def least_prefill_s(self, prompt: Column) -> Column:
        """Least time from arrival to the first token on an idle engine."""
        latency = self.latency
        attention_s = latency.attention_s * prompt * prompt + latency.sequence_s
        steps = np.ceil(prompt / self.limits.max_step_tokens)
        beyond_s = steps * self.constant_s + latency.linear_token_s * prompt
        return np.maximum(beyond_s, latency.host_s + latency.floor_s) + attention_s
