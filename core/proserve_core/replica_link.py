"""The link between a replica's device and host: what copies take, and when those under way end.

One link each way. Copies to the host run one after the other behind the steps; those of a step that restores begin when
its restores are done, and whatever is under way meanwhile goes on at the pace of a link that is busy both ways. Copies
don't fail.
"""

from collections import deque
from typing import NamedTuple

from proserve_core.blocks.ahead import CALL_S
from proserve_core.blocks.holding import Copy
from proserve_core.blocks.restore import Overlap
from proserve_core.blocks.transfer import CopyCosts, Direction, TransferModel
from proserve_core.kv_host import StepCopies


class _UnderWay(NamedTuple):
    copy: Copy
    began_s: float
    ends_s: float


class EndedCopy(NamedTuple):
    """A copy that has reached the host."""

    copy: Copy
    took_s: float


class WaitTimes(NamedTuple):
    """How much longer copies make a step."""

    offload_s: float
    """Flushes, and the engine's thread for each copy to the host that begins."""
    restore_s: float
    """What of the restores does not hide behind the step."""
    restore_hidden_s: float
    """What of them does."""


class ReplicaLink:
    """Times are on the replica's clock.

    Args:
        block_bytes: of one block over all layers.
        host_s: part of a step with which restores do not overlap.
    """

    def __init__(self, transfer: TransferModel, *, block_bytes: int, overlap: Overlap, host_s: float) -> None:
        self.block_bytes = block_bytes
        self.offload = transfer.costs(Direction.OFFLOAD, block_bytes=block_bytes)
        self.restore = transfer.costs(Direction.RESTORE, block_bytes=block_bytes)
        self.overlap = overlap
        self._both_busy = transfer.costs(Direction.RESTORE, block_bytes=block_bytes, both_busy=True)
        self._factor = transfer.both_busy
        self._host_s = host_s
        self._under_way: deque[_UnderWay] = deque()
        """To the host, in the order in which they end."""

    @property
    def busy(self) -> bool:
        """Whether copies to the host are under way."""
        return bool(self._under_way)

    @property
    def arriving_blocks(self) -> int:
        """Blocks on their way to the host."""
        return sum(each.copy.blocks for each in self._under_way)

    @property
    def next_end_s(self) -> float:
        """When the next copy to the host ends; some are on their way."""
        return self._under_way[0].ends_s

    def restore_costs(self, *, both_ways: bool) -> CopyCosts:
        """Of restores; `both_ways`: beside copies to the host."""
        return self._both_busy if both_ways else self.restore

    def begin(self, copy: Copy, start_s: float) -> None:
        """A copy goes to the host from `start_s` on, or when those before it are there."""
        begin_s = max(start_s, self._under_way[-1].ends_s if self._under_way else 0.0)
        self._under_way.append(_UnderWay(copy, begin_s, begin_s + self.offload.copy_s(copy.blocks)))

    def ended(self, now_s: float) -> list[EndedCopy]:
        """Copies that have reached the host since the last call."""
        found: list[EndedCopy] = []
        while self._under_way and self._under_way[0].ends_s <= now_s:
            copy, began_s, ends_s = self._under_way.popleft()
            found.append(EndedCopy(copy, ends_s - began_s))
        return found

    def share(self, now_s: float, restore_s: float) -> None:
        """Copies under way share the link with restores that begin now and take `restore_s`."""
        if not self._under_way:
            return
        left_s = self._under_way[-1].ends_s - now_s
        delay_s = min(restore_s, left_s * self._factor) * (1 - 1 / self._factor)
        self._under_way = deque(
            # What has not begun waits; what has, takes longer.
            each._replace(began_s=each.began_s + delay_s * (each.began_s > now_s), ends_s=each.ends_s + delay_s)
            for each in self._under_way
        )

    def waits(self, copies: StepCopies, alone_s: float) -> WaitTimes:
        """Of a step with these copies that takes `alone_s` without them."""
        restored = sum(blocks for _, blocks in copies.restored)
        restore_s = self.restore_costs(both_ways=copies.both_ways).copy_s(restored)
        forward_s = alone_s - self._host_s
        exposed_s = self.overlap.both_s(restore_s, forward_s) - forward_s
        flushed_s = sum(self.offload.copy_s(blocks) for _, blocks in copies.flushed)
        return WaitTimes(
            offload_s=flushed_s + CALL_S * (len(copies.flushed) + len(copies.offloaded)),
            restore_s=exposed_s,
            restore_hidden_s=max(0.0, restore_s - exposed_s),
        )
