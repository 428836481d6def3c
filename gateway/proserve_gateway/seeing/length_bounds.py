"""How much of one answer's length is believed: quotas and lost gain of all tenants of a class follow its mean length,
and an engine's count of tokens need not be true.

A bound that follows the mean alone would keep it where it is: of answers of 4,000 tokens that are one in fifty beside
such of 5, eight times the mean lets so little pass that it stays at 6 and never comes to 85. So an answer beyond the
bound doubles it, and it comes down slowly: one absurd answer counts for the bound, and long ones that come again for
what they are, as long as they are one in 500 or more.
"""

TIMES_EXPECTED = 8.0
"""Bound of a class in which nothing was longer, in expected lengths."""
GROWTH = 2.0
FORGETTING = 0.001
"""Share of the bound that goes with each finished request: a fiftieth of the mean's own forgetting."""


class LengthBounds:
    """By model and class."""

    def __init__(self) -> None:
        self._bounds: dict[tuple[str, str], float] = {}

    def believed(self, tokens: float, *, model: str, priority_class: str, expected: float) -> float:
        """What an answer of so many tokens counts for where `expected` were."""
        key = (model, priority_class)
        bound = max(TIMES_EXPECTED * expected, (1 - FORGETTING) * self._bounds.get(key, 0.0))
        if tokens <= bound:
            self._bounds[key] = bound
            return tokens
        self._bounds[key] = GROWTH * bound
        return bound
