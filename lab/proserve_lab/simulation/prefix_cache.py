"""The prefix cache of a simulated replica: blocks of prompts that ran there, least recently used first.

Coarse on purpose: a block has `BLOCK_TOKENS` tokens, counts as held from when its request is sent on, and takes nothing
from the replica's own blocks, although each request holds its whole context there.
"""

from collections.abc import Sequence

from proserve_core.routing.prefix_map import PrefixMap


class PrefixCache:
    """What one replica need not compute again."""

    def __init__(self, kv_tokens: int) -> None:
        self._blocks = PrefixMap()
        self._kv_tokens = kv_tokens

    def use(self, blocks: Sequence[int], prompt_tokens: int) -> int:
        """A prompt comes; returns how many of its first tokens are there."""
        cached = self._blocks.cached_tokens(blocks, prompt_tokens).get("", 0)
        self._blocks.sent("", blocks, self._kv_tokens)
        return cached
