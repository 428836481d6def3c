"""Which engine holds which prompts' beginnings, as far as a gateway can know: those that it sent there.

A prompt is a chain of blocks, each named by a hash of the prompt up to its end. What was sent to an engine is taken to
be in its prefix cache until as much else was sent there as its KV cache can hold: least recently used, as engines do
it. Where an engine evicts sooner, or other gateways send as well, a predicted hit may be wrong; it then costs one
prefill that was taken to be shorter.

Source: the approximate radix tree of the SGLang router and the prefix scorer of llm-d. Here an index from block to the
set of engines that hold it, a bit per engine, so that one walk along a prompt answers for all engines; memory is
bounded in all (`MAX_BLOCKS`) and per engine by its size.
"""

from collections.abc import Sequence

BLOCK_TOKENS = 512
"""Tokens of a block: coarse, because a hit of a few tokens decides nothing."""
MAX_BLOCKS = 200_000
"""Blocks remembered over all engines, some 30 MB; shared evenly among the engines."""


class PrefixMap:
    """Learned from what is sent."""

    def __init__(self, *, block_tokens: int = BLOCK_TOKENS, max_blocks: int = MAX_BLOCKS) -> None:
        self._block_tokens = block_tokens
        self._max_blocks = max_blocks
        self._names: list[str] = []
        """By bit; "" where an engine is gone."""
        self._held: dict[str, dict[int, None]] = {}
        """By engine: its blocks, least recently used first."""
        self._holders: dict[int, int] = {}
        """By block: bits of the engines that hold it."""

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    @property
    def engines(self) -> int:
        """How many of them are remembered."""
        return len(self._held)

    def cached_tokens(self, blocks: Sequence[int], prompt_tokens: int) -> dict[str, int]:
        """Leading tokens of a prompt that engines hold, by engine; at least its last token is always computed."""
        hits: dict[str, int] = {}
        mask = -1
        for depth, block in enumerate(blocks):
            held = mask & self._holders.get(block, 0)
            if depth and held != mask:
                self._note(hits, mask & ~held, depth, prompt_tokens)
            mask = held
            if not mask:
                return hits
        if blocks:
            self._note(hits, mask, len(blocks), prompt_tokens)
        return hits

    def sent(self, engine: str, blocks: Sequence[int], kv_tokens: int) -> None:
        """A prompt goes to an engine whose KV cache holds `kv_tokens`."""
        if not blocks:
            return
        held = self._held.get(engine)
        if held is None:
            held = self._held[engine] = {}
            if "" in self._names:
                self._names[self._names.index("")] = engine
            else:
                self._names.append(engine)
        bit = 1 << self._names.index(engine)
        holders = self._holders
        for block in blocks:
            if block in held:
                del held[block]
            else:
                holders[block] = holders.get(block, 0) | bit
            held[block] = None
        capacity = min(kv_tokens // self._block_tokens, self._max_blocks // len(self._held))
        while len(held) > capacity:
            self._drop(next(iter(held)), engine, bit)

    def keep(self, engines: Sequence[str]) -> None:
        """Forget all engines but these."""
        for engine in self._held.keys() - set(engines):
            bit = 1 << self._names.index(engine)
            for block in list(self._held[engine]):
                self._drop(block, engine, bit)
            del self._held[engine]
            self._names[self._names.index(engine)] = ""

    def _drop(self, block: int, engine: str, bit: int) -> None:
        del self._held[engine][block]
        left = self._holders[block] & ~bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]

    def _note(self, hits: dict[str, int], bits: int, depth: int, prompt_tokens: int) -> None:
        tokens = min(depth * self._block_tokens, prompt_tokens - 1)
        while bits:
            lowest = bits & -bits
            hits[self._names[lowest.bit_length() - 1]] = tokens
            bits ^= lowest
