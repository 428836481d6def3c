"""CUDA's streams, events and memory, and vLLM's copy of many pieces (`Streams`): everything that needs a GPU.

vLLM's `swap_blocks_batch` (0.28 to 0.32) hands all pieces to the driver in one call, `cuMemcpyBatchAsync`, from CUDA
12.8 on, and one by one before. Host memory is mapped and then registered, because torch would round up its own pinned
memory to a power of two.
"""

import mmap
from collections.abc import Callable
from typing import Any

import torch
from vllm import _custom_ops as ops

from proserve_engine.kv.copy_plan import Pieces


class CudaStreams:
    """Of the device that the KV caches are on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lowest, _ = torch.cuda.Stream.priority_range()

    def current(self) -> Any:
        return torch.cuda.current_stream(self._device)

    def new(self) -> Any:
        return torch.cuda.Stream(self._device, priority=self._lowest)

    def record(self, stream: Any) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def wait(self, stream: Any, event: Any) -> None:
        stream.wait_event(event)

    def happened(self, event: Any) -> bool:
        return bool(event.query())

    def finish(self, event: Any) -> None:
        event.synchronize()

    def between_s(self, one: Any, other: Any) -> float:
        return float(one.elapsed_time(other)) / 1e3

    def copy(self, stream: Any, pieces: Pieces, *, to_host: bool) -> None:
        source, target = (pieces.device, pieces.host) if to_host else (pieces.host, pieces.device)
        with torch.cuda.stream(stream):
            ops.swap_blocks_batch(
                torch.from_numpy(source),
                torch.from_numpy(target),
                torch.from_numpy(pieces.size),
                # The engine's own memory may be read only when it is the stream's turn; the host's is as it is.
                is_src_access_order_any=not to_host,
            )

    def run(self, stream: Any, work: Callable[[], None]) -> None:
        with torch.cuda.stream(stream), torch.inference_mode():
            work()

    def upload(self, numbers: Any) -> Any:
        return torch.from_numpy(numbers).pin_memory().to(self._device, non_blocking=True)

    def device_memory(self, size: int) -> Any:
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def host_memory(self, size: int) -> Any:
        try:
            memory = torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
        except OSError as error:
            raise MemoryError(str(error)) from error
        status = torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), size, 0)
        if status.value != 0:
            self._forget_error()
            raise MemoryError(f"{status} when {size} bytes were registered with CUDA")
        return memory

    def results(self, rows: int, columns: int) -> Any:
        return torch.empty((rows, columns), dtype=torch.int64, pin_memory=True)

    def free(self, memory: Any) -> None:
        torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())

    def _forget_error(self) -> None:
        """CUDA keeps the error for the next kernel that is launched: here is one that may have it."""
        try:
            self.device_memory(1).zero_()
        except RuntimeError:
            return
