"""How many tokens a request will bring, as a gateway can know it: the running mean of its class and model.

The gateway uses it to route (expected output) and to charge the gain of a request that ended before its time.
`length_forecast` knows more, by client, prompt and progress, and costs more; the simulated gateway uses that.
"""

FIRST_GUESS_TOKENS = 128.0
"""Before anything finished: between a short chat answer and a long one."""
FORGETTING = 0.02
"""Weight of a finished request in the mean: the last fifty dominate."""


class OutputLengths:
    """Exponentially weighted mean of output lengths by model and class."""

    def __init__(self) -> None:
        self._means: dict[tuple[str, str], float] = {}

    def finished(self, *, model: str, priority_class: str, tokens: float) -> None:
        """A request ended by itself with `tokens` tokens per choice."""
        key = (model, priority_class)
        mean = self._means.get(key)
        self._means[key] = tokens if mean is None else mean + FORGETTING * (tokens - mean)

    def expected(self, *, model: str, priority_class: str, max_tokens: int | None = None) -> float:
        """Output tokens of one choice of a new request; `max_tokens` is the client's limit, None if it named none."""
        mean = self._means.get((model, priority_class), FIRST_GUESS_TOKENS)
        return mean if max_tokens is None else min(mean, float(max_tokens))
