"""Whose blocks on the host a request begins with, by the hashes of blocks.

vLLM's hash of a block is one of all tokens up to its end, and of whatever else its KV depends on (LoRA, images, a cache
salt). So two requests with the same hash have the same KV up to there, and a row that has a block with it has all
blocks before. That a hash is known is therefore true up to some block and false from there on.
"""

from bisect import bisect_left
from collections.abc import Hashable, Sequence

from proserve_core.blocks import Holding


class HostPrefixes:
    """Rows of host blocks by the hashes of their blocks."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, list[Holding]] = {}
        self._hashes: dict[Holding, list[Hashable]] = {}

    def extend(self, row: Holding, first: int, hashes: Sequence[Hashable]) -> None:
        """The row's blocks from `first` on have these hashes. A row with a gap is found up to the gap."""
        known = self._hashes.setdefault(row, [])
        if len(known) == first:
            known.extend(hashes)
            for each in hashes:
                self._rows.setdefault(each, []).append(row)

    def cut(self, row: Holding, blocks: int) -> None:
        """Of the row only the first `blocks` are left."""
        known = self._hashes.get(row, [])
        for each in known[blocks:]:
            rows = self._rows[each]
            rows.remove(row)
            if not rows:
                del self._rows[each]
        del known[blocks:]
        if not known:
            self._hashes.pop(row, None)

    def longest(self, hashes: Sequence[Hashable]) -> tuple[Holding, int] | None:
        """A row that begins with as many blocks as possible with these hashes, and their number; None if none does."""
        blocks = bisect_left(hashes, True, key=lambda each: each not in self._rows)
        return (self._rows[hashes[blocks - 1]][0], blocks) if blocks else None
