"""How long an engine's copies take: counted, and fitted for those who plan."""

from collections.abc import Sequence

from proserve_core.blocks import CopyCosts, Direction, OnlineTransfer, TransferModel
from proserve_engine.kv.copies import EndedCopy
from proserve_engine.kv.counters import CopyCounters
from proserve_engine.kv.messages import CopyReport


class MeasuredLink:
    """Between one engine's device and host.

    Args:
        transfer: what it begins with.
        block_bytes: of one block on all workers together.
    """

    def __init__(self, transfer: TransferModel, *, counters: CopyCounters, block_bytes: int) -> None:
        self._transfer = OnlineTransfer(transfer)
        self._counters = counters
        self._block_bytes = block_bytes

    def costs(self, direction: Direction, *, both_busy: bool = False) -> CopyCosts:
        """Of copies, as far as is known; `both_busy`: while copies run the other way."""
        return self._transfer.model.costs(direction, block_bytes=self._block_bytes, both_busy=both_busy)

    def ended(self, copies: Sequence[EndedCopy], report: CopyReport) -> None:
        """Take in the copies that ended with `report`."""
        for direction, exposed_s in ((Direction.OFFLOAD, report.flushed_s), (Direction.RESTORE, report.waited_s)):
            self._measure([copy for copy in copies if copy.direction is direction], direction, exposed_s)

    def _measure(self, ended: Sequence[EndedCopy], direction: Direction, exposed_s: float) -> None:
        copy_s, size = 0.0, 0
        for copy in ended:
            if not copy.intact:
                self._counters.failed(direction)
                continue
            blocks = len(copy.blocks)
            self._counters.arrived(direction, blocks=blocks, size=blocks * self._block_bytes)
            copy_s += copy.copy_s
            size += blocks * self._block_bytes
            # For how much of one to the host a restore ran beside it is not known.
            if direction is Direction.OFFLOAD and not copy.both_busy:
                self._observe(direction, blocks * self._block_bytes, copy.copy_s)
        if direction is Direction.RESTORE:
            # All restores of a step are one copy.
            both_busy = any(copy.both_busy for copy in ended)
            self._observe(direction, size, copy_s, both_busy=both_busy)
        self._counters.took(direction, copy_s=copy_s, exposed_s=exposed_s)

    def _observe(self, direction: Direction, size: int, copy_s: float, *, both_busy: bool = False) -> None:
        if size and copy_s > 0:
            self._transfer.observe(direction, size=size, calls=1, measured_s=copy_s, both_busy=both_busy)
