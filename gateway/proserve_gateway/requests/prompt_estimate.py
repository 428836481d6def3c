"""How many tokens a prompt has, from its size: learned from what engines report, of each tenant in each pool by itself.

ROUTING, section 1. The size is that of the prompt's JSON, so tokens per byte also absorb quotes, escapes and roles;
they differ between models and languages. Beside them there is what any prompt costs, however short: the chat template.
One ratio for both would make long prompts of whoever sends short ones several times too long. Tenants are apart
because it is by this estimate that a request is ranked, shed and held to a quota, and what one sends (pictures by
address, say) must not change what becomes of another.

Both numbers are corrected by a part of each prompt's error, each by its share in the estimate (normalised least mean
squares): no history, and a long prompt says little of the constant, a short one little of the ratio.
"""

FIRST_TOKENS_PER_BYTE = 0.25
"""Usual for English text, until something was answered."""
FORGETTING = 0.05
"""Part of an answer's error that is corrected, once many have been seen."""
MOST_BYTES_PER_TOKEN = 32
"""Of whole prompts as JSON, in any language; single tokens may have more. The tokenizer tekken has 6 to 7 in Russian,
16 to 20 where the client escapes every letter, as Python's json does, and 17 in tables padded with spaces."""
_TYPICAL_BYTES = 1000.0
"""Size of a prompt that says as much of the ratio as of the constant."""


class _Fit:
    """Tokens of one tenant's prompts in one pool."""

    __slots__ = ("_seen", "constant", "per_byte")

    def __init__(self) -> None:
        self._seen = 0
        self.constant = 0.0
        self.per_byte = FIRST_TOKENS_PER_BYTE

    def tokens(self, prompt_bytes: int) -> float:
        return self.constant + self.per_byte * prompt_bytes

    def learn(self, prompt_bytes: int, prompt_tokens: int) -> None:
        self._seen += 1
        size = prompt_bytes / _TYPICAL_BYTES
        error = prompt_tokens - self.tokens(prompt_bytes)
        step = max(FORGETTING, 1 / self._seen) * error / (1 + size * size)
        self.constant = max(0.0, self.constant + step)
        self.per_byte = min(1.0, max(1 / MOST_BYTES_PER_TOKEN, self.per_byte + step * size / _TYPICAL_BYTES))


class PromptEstimator:
    """Of all pools and tenants; bounded by those that were configured while this process ran."""

    def __init__(self) -> None:
        self._fits: dict[tuple[str, str], _Fit] = {}

    def estimate(self, pool: str, tenant: str, prompt_bytes: int) -> int:
        """At least one token."""
        fit = self._fits.get((pool, tenant))
        return max(1, round(prompt_bytes * FIRST_TOKENS_PER_BYTE if fit is None else fit.tokens(prompt_bytes)))

    def learn(self, pool: str, tenant: str, prompt_bytes: int, prompt_tokens: int) -> None:
        """An engine reported `prompt_tokens` for a prompt of `prompt_bytes`."""
        if prompt_bytes > 0 and prompt_tokens > 0:
            self._fits.setdefault((pool, tenant), _Fit()).learn(prompt_bytes, prompt_tokens)


def least_tokens(prompt_bytes: int) -> int:
    """What a prompt of this size has in any case."""
    return prompt_bytes // MOST_BYTES_PER_TOKEN
