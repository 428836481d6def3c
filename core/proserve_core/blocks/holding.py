"""What one request has of the device's and the host's blocks: rows of blocks, as lengths.

    device blocks   |complete: full, their KV is there |being restored |being filled|
    host blocks     |ready: a copy is there |being offloaded|

Both are rows from the request's first token on: a copy is useful only if all blocks before it are there too, on either
side. `BlockLedger` keeps holdings; others only read them.
"""

import msgspec

from proserve_core.blocks.transfer import Direction


class LedgerError(RuntimeError):
    """A transition that cannot be: a bug in the caller."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy under way."""

    number: int
    request_id: str
    direction: Direction
    first: int
    """Index of its first block in the request's row."""
    blocks: int


class Holding(msgspec.Struct, kw_only=True, gc=False, eq=False):
    """The rows of one request."""

    request_id: str
    device: int = 0
    """Device blocks, those being restored included."""
    complete: int = 0
    """Device blocks, from the first on, that are full and computed."""
    ready: int = 0
    """Host blocks, from the first on, that hold a copy."""
    damaged_from: int | None = None
    """Host blocks from this one on are not to be used, and free when no restore reads the row any more."""
    worth: float = 0.0
    """Gain per engine second that the copies stand for (`blocks.offload.copy_worth`): the least is evicted first."""
    used: int = 0
    """When the host blocks were last written or read, in transitions."""
    offload: Copy | None = None
    restore: Copy | None = None
    lender: "Holding | None" = None
    """Whose host blocks the restore under way reads; None: its own."""
    readers: int = 0
    """Restores of others under way that read the host blocks."""
    draining: int = 0
    """Device blocks that no longer belong to the request but to its offload under way."""
    ended: bool = False
    """The request is gone; what is left here belongs to copies under way."""

    @property
    def usable(self) -> int:
        """Host blocks, from the first on, that may be restored."""
        if self.ended:
            return 0
        return self.ready if self.damaged_from is None else min(self.ready, self.damaged_from)

    @property
    def uncopied(self) -> int:
        """Complete blocks that are neither on the host nor on their way there."""
        on_host = self.ready + self.offloading
        return self.complete - on_host if self.complete > on_host else 0

    @property
    def restorable(self) -> int:
        """Host blocks behind the complete ones."""
        return max(0, self.usable - self.complete)

    @property
    def offloading(self) -> int:
        """Host blocks that are being written."""
        return self.offload.blocks if self.offload is not None else 0

    @property
    def in_use(self) -> bool:
        """Whether a copy under way needs the rows."""
        return self.offload is not None or self.restore is not None or self.readers > 0

    @property
    def being_read(self) -> bool:
        """Whether a restore under way reads the host blocks."""
        return self.readers > 0 or (self.restore is not None and self.lender is None)


class Eviction(msgspec.Struct, frozen=True):
    """`holding` lost the last `blocks` of its host blocks."""

    holding: Holding
    blocks: int


def refusal(holding: Holding, what: str) -> LedgerError:
    """An error that names the request and its numbers."""
    return LedgerError(
        f"request {holding.request_id!r} {what} ({holding.device} device blocks, {holding.complete} complete, "
        f"{holding.ready} on the host)"
    )


def check_rows(holding: Holding) -> None:
    """Whether the numbers of one holding go together.

    Raises:
        LedgerError: they don't.
    """
    arriving = holding.restore.blocks if holding.restore is not None else 0
    if not 0 <= holding.complete <= holding.device - arriving or min(holding.ready, holding.readers) < 0:
        raise refusal(holding, f"has rows that cannot be, {arriving} blocks being restored")
    if holding.draining not in (0, holding.offloading):
        raise refusal(holding, f"drains {holding.draining} blocks and offloads {holding.offloading}")
    if holding.damaged_from is not None and not holding.being_read:
        raise refusal(holding, f"keeps host blocks from {holding.damaged_from} on that nobody may use or reads")
    copy = holding.offload
    if copy is not None and not holding.draining and not holding.ended and copy.first + copy.blocks > holding.complete:
        raise refusal(holding, f"offloads blocks up to {copy.first + copy.blocks} that are not complete")
    copy = holding.restore
    row = holding if holding.lender is None else holding.lender
    if copy is not None and copy.first + copy.blocks > row.ready:
        raise refusal(holding, f"restores blocks up to {copy.first + copy.blocks} that the host does not have")
