"""The host memory of a replica as values: what it is like, what a step copies, what copies did so far."""

import msgspec

from proserve_core.blocks.kv_layout import KV_LAYOUTS, KvLayout
from proserve_core.blocks.returns import AdaptiveRule, shortest
from proserve_core.blocks.settings import KvOffload
from proserve_core.blocks.transfer import TRANSFERS, TransferModel
from proserve_core.latency.calibrations import Calibration


class KvHost(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica's host memory is like."""

    settings: KvOffload
    transfer: TransferModel
    layout: KvLayout
    adaptive: AdaptiveRule = shortest
    """The adaptive budget's rule."""
    by_gain: bool = False
    """Of those that a plan brings back, who lowers the gain per second of the step waits (`blocks.gain_budget`)."""


def host_of(calibration: Calibration, settings: KvOffload | None) -> KvHost | None:
    """Host memory with these settings behind a calibrated engine; None without settings.

    Raises:
        KvOffloadError: it has no room for a block.
    """
    if settings is None:
        return None
    layout = KV_LAYOUTS[calibration.model]
    settings.host_blocks(block_bytes=layout.block_bytes(calibration.block_size))
    return KvHost(settings=settings, transfer=TRANSFERS[calibration.gpu], layout=layout)


class StepCopies(msgspec.Struct, frozen=True, kw_only=True):
    """The copies of one step. Blocks by request."""

    restored: tuple[tuple[str, int], ...]
    flushed: tuple[tuple[str, int], ...]
    """To the host before the step computes."""
    offloaded: tuple[tuple[str, int], ...]
    """To the host behind steps, from this one on."""
    evicted: tuple[tuple[str, int], ...]
    both_ways: bool
    """The restores share the link with copies to the host."""


class CopyTotals(msgspec.Struct, kw_only=True):
    """What the copies did so far. Blocks and times count when a copy has ended."""

    offloaded_blocks: int = 0
    restored_blocks: int = 0
    restores: int = 0
    """Preempted requests that came back with blocks from the host."""
    recomputed_tokens: int = 0
    """Tokens of preempted requests that were computed again."""
    evicted_blocks: int = 0
    offload_hidden_s: float = 0.0
    """Time of copies behind compute."""
    offload_exposed_s: float = 0.0
    """Time for which steps waited for them, and for the engine's thread to begin them."""
    restore_hidden_s: float = 0.0
    restore_exposed_s: float = 0.0
