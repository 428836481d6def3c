"""How long KV blocks take between device and host.

`calls * call_s + bytes * byte_s` per direction, times `both_busy` while copies run the other way too. A call is one
copy handed to the driver, whatever its size. Where all layers of a block lie together (vLLM from 0.12) one call can
move a block or, batched, many; where they don't, each layer of a block is a call of its own, and small calls are what
makes copies slow.

Sources of the presets: vLLM's report on KV offloading (blog, 2026-01-08: H100 with PCIe gen5, up to 50 GB/s one way and
83.4 GB/s both ways together at 2 MB per call); 5.5 us per call, 2.6 batched (vLLM pull request 40549, MI300X; its point
at 32 KB asks for 9). For gen4 no measured figure was found: 25 GB/s is what such links usually reach of their 32. The
CPU engine copies within its own memory: measured on one busy core, scattered blocks of 16 KB, 1 to 128 per call.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec


class Direction(StrEnum):
    OFFLOAD = "offload"
    """Device to host."""
    RESTORE = "restore"
    """Host to device."""


class LinkModel(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of the link."""

    call_s: float
    """Seconds per call."""
    byte_s: float
    """Seconds per byte."""

    def copy_s(self, size: int, calls: int) -> float:
        """Seconds for `size` bytes in `calls` calls, while nothing runs the other way."""
        return calls * self.call_s + size * self.byte_s


class CopyCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What copying blocks of one size costs in one direction: `start_s + blocks * block_s`."""

    start_s: float
    """Seconds per copy, however many blocks it moves."""
    block_s: float
    """Seconds per block."""

    def copy_s(self, blocks: int) -> float:
        """Seconds for one copy of `blocks` blocks; 0 for none."""
        return self.start_s + blocks * self.block_s if blocks > 0 else 0.0

    def blocks_within(self, budget_s: float) -> int:
        """Most blocks that one copy can move in `budget_s`, at least 0. `block_s` must be above 0."""
        return max(0, int((budget_s - self.start_s) / self.block_s))


class TransferModel(msgspec.Struct, frozen=True, kw_only=True):
    """Both directions. Immutable: an online fit publishes a new one."""

    offload: LinkModel
    restore: LinkModel
    both_busy: float = 1.0
    """Factor on the times of a copy while copies run the other way, at least 1."""

    def link(self, direction: Direction) -> LinkModel:
        return self.offload if direction is Direction.OFFLOAD else self.restore

    def costs(
        self, direction: Direction, *, block_bytes: int, calls_per_block: int = 0, both_busy: bool = False
    ) -> CopyCosts:
        """Costs per copy and per block.

        Args:
            block_bytes: bytes of one block over all layers.
            calls_per_block: calls beyond the copy's first that each block adds: 0 where the engine hands over a batch,
                1 if it copies block by block, the number of layers if it copies layer by layer.
            both_busy: copies run the other way at the same time.
        """
        link = self.link(direction)
        factor = self.both_busy if both_busy else 1.0
        return CopyCosts(
            start_s=factor * link.call_s,
            block_s=factor * (calls_per_block * link.call_s + block_bytes * link.byte_s),
        )


_CALL_S = 1e-5
_GEN5 = LinkModel(call_s=_CALL_S, byte_s=1 / 50e9)
_GEN4 = LinkModel(call_s=_CALL_S, byte_s=1 / 25e9)
_BOTH_BUSY = 2 * 50 / 83.4
_MEMORY = LinkModel(call_s=1.1e-5, byte_s=1 / 5.2e9)

TRANSFERS: Mapping[str, TransferModel] = MappingProxyType(
    {
        "NVIDIA H100 SXM 80 GB": TransferModel(offload=_GEN5, restore=_GEN5, both_busy=_BOTH_BUSY),
        "NVIDIA A100 SXM 80 GB": TransferModel(offload=_GEN4, restore=_GEN4, both_busy=_BOTH_BUSY),
        "one CPU core (AMD EPYC, AVX2, float32)": TransferModel(offload=_MEMORY, restore=_MEMORY),
    }
)
"""By the `gpu` of a calibration. The gen4 link is assumed to lose as much to traffic both ways as the gen5 one."""
