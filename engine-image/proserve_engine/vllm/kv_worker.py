"""Which copier a worker gets, by the platform it runs on."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from proserve_engine.kv.cpu_copier import CpuCopier
from proserve_engine.kv.layers import KvLayers, LayoutError
from proserve_engine.kv.worker import Copier, CopyWorker

_logger = logging.getLogger("vllm.proserve")


def make_worker(caches: Mapping[str, Any], num_blocks: int, host_blocks: int) -> CopyWorker:
    """A worker for its KV caches; if the host's memory is refused, one whose copies all fail.

    Raises:
        LayoutError: copies don't know KV caches of this form, or on this device.
    """
    kv = KvLayers(caches, num_blocks)
    try:
        copier = _copier(kv, host_blocks)
    except LayoutError:
        raise
    except (MemoryError, RuntimeError) as error:
        refused = f"{host_blocks} blocks of {kv.block_bytes} bytes: {error}"
        _logger.error("no host memory for KV blocks, preempted requests are computed again: %s", refused)
        return CopyWorker(None, kv.number, refused=refused)
    return CopyWorker(copier, kv.number)


def _copier(kv: KvLayers, host_blocks: int) -> Copier:
    device = kv.layers[0][0].device
    if device.type == "cpu":
        return CpuCopier(kv, host_blocks)
    if device.type == "cuda" and torch.version.cuda is not None:
        # vLLM's CPU build lacks what this needs.
        from proserve_engine.kv.cuda_copier import CudaCopier
        from proserve_engine.vllm.cuda_streams import CudaStreams

        return CudaCopier(kv, host_blocks, CudaStreams(device))
    raise LayoutError(f"KV blocks cannot be copied from {device}: leave --kv-offload out")
