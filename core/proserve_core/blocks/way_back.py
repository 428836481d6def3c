"""What of a resident's blocks would come back if it were preempted: what policies weigh victims by."""

from typing import NamedTuple

from proserve_core.blocks.holding import Holding
from proserve_core.blocks.transfer import CopyCosts
from proserve_core.latency import LatencyModel


class WayBack(NamedTuple):
    """Blocks, from the request's first on."""

    blocks: int
    """Of the complete ones: those that would come back."""
    flushed: int
    """The last so many of them are not on the host nor on their way there: the step would wait for their copies."""


def way_back(holding: Holding, *, flushes: bool) -> WayBack:
    """Of a resident that can still earn.

    Args:
        flushes: what is not on the host when a request is preempted is copied then.
    """
    sent = min(holding.usable + holding.offloading, holding.complete)
    if not flushes or holding.offload is not None:
        return WayBack(sent, 0)
    return WayBack(holding.complete, holding.complete - sent)


def flush_pays(*, latency: LatencyModel, block_size: int, offload: CopyCosts, restore: CopyCosts) -> bool:
    """Whether copying a block to the host and back, while steps wait, takes less than computing it again."""
    return offload.block_s + restore.block_s < latency.linear_token_s * block_size
