"""How many tokens a prompt has, from its size: the ratio is learned per pool from what engines report.

ROUTING, section 1. The size is that of the prompt's JSON, so the ratio also absorbs quotes, escapes, roles and the
chat template; it differs between models and languages and settles within some tens of requests.
"""

FIRST_TOKENS_PER_BYTE = 0.25
"""Usual for English text, until the pool has answered something."""
FORGETTING = 0.05
"""Weight of one answer in the ratio."""


class PromptEstimator:
    """Tokens per byte of each pool."""

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}

    def estimate(self, pool: str, prompt_bytes: int) -> int:
        """At least one token."""
        return max(1, round(prompt_bytes * self._ratios.get(pool, FIRST_TOKENS_PER_BYTE)))

    def learn(self, pool: str, prompt_bytes: int, prompt_tokens: int) -> None:
        """An engine reported `prompt_tokens` for a prompt of `prompt_bytes`."""
        if prompt_bytes <= 0 or prompt_tokens <= 0:
            return
        seen = prompt_tokens / prompt_bytes
        ratio = self._ratios.get(pool)
        self._ratios[pool] = seen if ratio is None else ratio + FORGETTING * (seen - ratio)
