"""What the device itself takes for a copy, and how to damage copied blocks without anybody noticing."""

import statistics
import time
from typing import Any

import torch

from proserve_engine.kv.cpu_copier import CpuCopier
from proserve_engine.kv.cuda_copier import CudaCopier


def raw_copy_s(device: Any, size: int, *, to_host: bool, times: int) -> float:
    """Copying one piece of memory of this size, at the median, seconds."""
    there = torch.ones(size, dtype=torch.uint8, device=device)
    here = torch.ones(size, dtype=torch.uint8, pin_memory=there.is_cuda)
    source, target = (there, here) if to_host else (here, there)
    target.copy_(source)
    return statistics.median(_copy_s(source, target, timed_by_device=there.is_cuda) for _ in range(times))


def _copy_s(source: Any, target: Any, *, timed_by_device: bool) -> float:
    if not timed_by_device:
        began_s = time.perf_counter()
        target.copy_(source)
        return time.perf_counter() - began_s
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    target.copy_(source, non_blocking=True)
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1e3


def wipe(copier: CpuCopier | CudaCopier) -> None:
    """Empty all blocks on the host, and have their sums say that this is right."""
    if isinstance(copier, CpuCopier):
        for planes, sums in zip(copier.host.layers, copier.host.sums, strict=True):
            for plane in (*planes, *sums):
                plane.zero_()
    else:
        for memory in copier.mirror.memory:
            memory.zero_()
        copier.sums[:] = 0
