"""How long one engine step takes.

`host + max(floor, g0 + g1*m) + c*sum(p^2 + 2*p*x) + d*sum(decode context) + e*sequences`, where m counts all new tokens
of the step (prefill chunks and one per decode), p is a chunk and x its cached prefix. The linear layers are bound by
reading the weights until m reaches the knee; below it decode tokens are nearly free, and a model that charges them
per token chooses wrong. Shape and constants: measured kernel times of NVIDIA aiconfigurator (docs/latency.md);
SlidingServe and QoServe use the same features without the knee.
"""

import math

import msgspec


class StepWork(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the entries of one step."""

    new_tokens: int = 0
    attention: float = 0.0
    """sum(p^2 + 2*p*x) over prefill chunks, tokens squared."""
    decode_context: int = 0
    """sum of the contexts of decodes, tokens."""
    sequences: int = 0


class LatencyModel(msgspec.Struct, frozen=True, kw_only=True):
    """Coefficients in seconds. Immutable: an online fit publishes a new one."""

    host_s: float
    """Host work per step."""
    floor_s: float
    """Linear layers while bound by reading the weights."""
    linear_base_s: float
    """g0 of the linear layers beyond the knee."""
    linear_token_s: float
    """g1: per new token beyond the knee."""
    attention_s: float
    """c: per token squared of prefill attention."""
    context_s: float
    """d: per token of decode context."""
    sequence_s: float
    """e: per sequence in the step."""

    @property
    def constant_s(self) -> float:
        """Cost of taking a step at all once it is beyond the knee."""
        return self.host_s + self.linear_base_s

    @property
    def knee_tokens(self) -> float:
        """New tokens at which the linear layers leave the weight-bound floor."""
        if self.linear_token_s <= 0:
            return math.inf
        return max(0.0, (self.floor_s - self.linear_base_s) / self.linear_token_s)

    def step_s(self, work: StepWork) -> float:
        """Predicted duration of a step; 0 for a step without work."""
        if work.sequences == 0:
            return 0.0
        return self.sums_s(work.new_tokens, work.attention, work.decode_context, work.sequences)

    def sums_s(self, new_tokens: float, attention: float, decode_context: float, sequences: int) -> float:
        """`step_s` on bare sums, for inner loops."""
        linear_s = self.linear_base_s + self.linear_token_s * new_tokens
        return (
            self.host_s
            + (linear_s if linear_s > self.floor_s else self.floor_s)
            + self.attention_s * attention
            + self.context_s * decode_context
            + self.sequence_s * sequences
        )

    def prefill_s(self, tokens: int, cached: int = 0) -> float:
        """Marginal cost of `tokens` prompt tokens after `cached` ones, beyond the knee, without the step constant."""
        return (
            self.linear_token_s * tokens + self.attention_s * (tokens * tokens + 2 * tokens * cached) + self.sequence_s
        )

    def prefill_tokens(self, budget_s: float, cached: int = 0) -> float:
        """Most prompt tokens after `cached` ones whose `prefill_s` stays within `budget_s`; not rounded."""
        room_s = budget_s - self.sequence_s
        return _root(self.attention_s, self.linear_token_s + 2 * self.attention_s * cached, room_s)

    def decode_s(self, context: float) -> float:
        """Marginal cost of one decode token at `context`, beyond the knee, without the step constant."""
        return self.linear_token_s + self.sequence_s + self.context_s * context

    def largest_chunk(self, *, budget_s: float, base: StepWork, cached: int, limit: int) -> int:
        """Most prompt tokens (0..limit) that can join `base` with the step still within `budget_s`.

        Closed form: the chunk must fit both branches of the linear term, the floor and the line beyond the knee.
        """
        if limit <= 0:
            return 0
        fixed_s = (
            self.host_s
            + self.attention_s * base.attention
            + self.context_s * base.decode_context
            + self.sequence_s * (base.sequences + 1)
        )
        room_s = budget_s - fixed_s
        if room_s < self.floor_s:
            return 0
        quadratic = self.attention_s
        by_floor = _root(quadratic, 2 * self.attention_s * cached, room_s - self.floor_s)
        by_compute = _root(
            quadratic,
            self.linear_token_s + 2 * self.attention_s * cached,
            room_s - self.linear_base_s - self.linear_token_s * base.new_tokens,
        )
        chunk = int(min(by_floor, by_compute, float(limit)))
        # The roots are rounded; `step_s` decides.
        while chunk > 0 and self._with_chunk_s(base, chunk, cached) > budget_s:
            chunk -= 1
        while chunk < limit and self._with_chunk_s(base, chunk + 1, cached) <= budget_s:
            chunk += 1
        return chunk

    def _with_chunk_s(self, base: StepWork, chunk: int, cached: int) -> float:
        return self.sums_s(
            base.new_tokens + chunk,
            base.attention + chunk * chunk + 2 * chunk * cached,
            base.decode_context,
            base.sequences + 1,
        )


def _root(quadratic: float, linear: float, room: float) -> float:
    """Largest p >= 0 with quadratic*p^2 + linear*p <= room; 0 if none, inf if unbounded."""
    if room <= 0:
        return 0.0 if quadratic > 0 or linear > 0 or room < 0 else math.inf
    if math.isinf(room):
        return math.inf
    if quadratic <= 0:
        return room / linear if linear > 0 else math.inf
    # 2*room / (linear + sqrt(...)) keeps precision when quadratic is tiny.
    return 2 * room / (linear + math.sqrt(linear * linear + 4 * quadratic * room))
