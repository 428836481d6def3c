"""Which copier a worker gets, by the platform it runs on."""

import logging
from collections.abc import Mapping
from typing import Any

from proserve_engine.kv.cpu_copier import CpuCopier
from proserve_engine.kv.layers import KvLayers, LayoutError
from proserve_engine.kv.worker import CopyWorker

_logger = logging.getLogger("vllm.proserve")


def make_worker(caches: Mapping[str, Any], num_blocks: int, host_blocks: int) -> CopyWorker:
    """A worker for its KV caches; if the host's memory is refused, one whose copies all fail.

    Raises:
        LayoutError: copies don't know KV caches of this form, or on this device.
    """
    kv = KvLayers(caches, num_blocks)
    device = kv.layers[0][0].device
    if device.type != "cpu":
        raise LayoutError(f"KV blocks cannot be copied from {device} yet: leave --kv-offload out")
    try:
        copier = CpuCopier(kv, host_blocks)
    except (MemoryError, RuntimeError) as error:
        refused = f"{host_blocks} blocks of {kv.block_bytes} bytes: {error}"
        _logger.error("no host memory for KV blocks, preempted requests are computed again: %s", refused)
        return CopyWorker(None, kv.number, refused=refused)
    return CopyWorker(copier, kv.number)
