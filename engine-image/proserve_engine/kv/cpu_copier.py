"""Copies KV blocks of vLLM's CPU backend: device and host are the same memory, threads are the copy engines.

One thread per direction, so that a restore that a step waits for never queues behind copies ahead. All restores of a
step go layer by layer together, which is what lets the forward pass start when the first layer is there.

Each block's bytes are summed up when it leaves the device and when it comes back: what differs does not arrive.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

import torch

from proserve_engine.kv.layers import KvLayers, Layer, checksums
from proserve_engine.kv.messages import CopyJob, CopyReport, CopyResult, Report

_logger = logging.getLogger("vllm.proserve")


class HostMemory:
    """The host's blocks, laid out like the device's, and what each should add up to.

    Raises:
        MemoryError, RuntimeError: there is not so much memory.
    """

    def __init__(self, layers: Sequence[Layer], blocks: int) -> None:
        self.layers: list[Layer] = [
            tuple(torch.empty((blocks, plane.shape[1]), dtype=plane.dtype) for plane in layer) for layer in layers
        ]
        self.sums = [[torch.zeros(blocks, dtype=torch.int64) for _ in layer] for layer in layers]


class CpuCopier:
    """Moves blocks in threads of its own. All methods are called from the engine's thread."""

    def __init__(self, kv: KvLayers, host_blocks: int) -> None:
        self.host = HostMemory(kv.layers, host_blocks)
        self._device = kv.layers
        self._lock = threading.Lock()
        self._results: dict[int, CopyResult] = {}
        self._arrivals: list[threading.Event] = []
        self._waited_s = 0.0
        self._flushed_s = 0.0
        self._offloads = _Lane("proserve-offload")
        self._restores = _Lane("proserve-restore")

    def flush(self, jobs: Sequence[CopyJob]) -> None:
        began_s = time.perf_counter()
        for done in [self._begin_offload(job) for job in jobs]:
            done.wait()
        self._flushed_s += time.perf_counter() - began_s

    def offload(self, jobs: Sequence[CopyJob]) -> None:
        for job in jobs:
            self._begin_offload(job)

    def restore(self, jobs: Sequence[CopyJob]) -> None:
        arrivals = [threading.Event() for _ in self._device]
        self._arrivals = arrivals
        self._restores.do(lambda: self._restore(jobs, arrivals))

    def wait_for_layer(self, number: int) -> None:
        if self._arrivals:
            began_s = time.perf_counter()
            self._arrivals[number].wait()
            self._waited_s += time.perf_counter() - began_s

    def wait_for_restores(self) -> None:
        self.wait_for_layer(-1)

    def after_step(self) -> None:
        self.wait_for_restores()
        self._arrivals = []

    def report(self) -> Report | None:
        with self._lock:
            results, self._results = self._results, {}
        if not results:
            return None
        report = CopyReport(results=results, waited_s=self._waited_s, flushed_s=self._flushed_s)
        self._waited_s = self._flushed_s = 0.0
        return lambda: report

    def close(self) -> None:
        """End the threads; what is queued is done before."""
        self._offloads.close()
        self._restores.close()

    def copy_out(self, number: int, device: torch.Tensor, host: torch.Tensor) -> None:
        """Copy blocks of one layer to the host."""
        for plane, memory, sums in zip(
            self._device[number], self.host.layers[number], self.host.sums[number], strict=True
        ):
            blocks = plane.index_select(0, device)
            sums[host] = checksums(blocks)
            memory[host] = blocks

    def copy_in(self, number: int, device: torch.Tensor, host: torch.Tensor) -> torch.Tensor:
        """Copy blocks of one layer to the device; which of them are what they should be."""
        intact = torch.ones(len(host), dtype=torch.bool)
        for plane, memory, sums in zip(
            self._device[number], self.host.layers[number], self.host.sums[number], strict=True
        ):
            blocks = memory.index_select(0, host)
            intact &= checksums(blocks) == sums[host]
            plane[device] = blocks
        return intact

    def _begin_offload(self, job: CopyJob) -> threading.Event:
        return self._offloads.do(lambda: self._offload(job))

    def _offload(self, job: CopyJob) -> None:
        began_s = time.perf_counter()
        device, host = torch.tensor(job.device), torch.tensor(job.host)
        intact = False
        try:
            for number in range(len(self._device)):
                self.copy_out(number, device, host)
            intact = True
        except Exception:
            _logger.exception("offload of %d KV blocks failed: they will be computed again", len(job.device))
        with self._lock:
            self._results[job.number] = CopyResult(intact=intact, copy_s=time.perf_counter() - began_s)

    def _restore(self, jobs: Sequence[CopyJob], arrivals: Sequence[threading.Event]) -> None:
        began_s = time.perf_counter()
        device = torch.tensor([block for job in jobs for block in job.device])
        host = torch.tensor([block for job in jobs for block in job.host])
        intact = torch.zeros(len(host), dtype=torch.bool)
        try:
            so_far = torch.ones(len(host), dtype=torch.bool)
            for number, arrival in enumerate(arrivals):
                so_far &= self.copy_in(number, device, host)
                if number + 1 < len(arrivals):
                    arrival.set()
            intact = so_far
        except Exception:
            _logger.exception("restore of %d KV blocks failed: they will be computed again", len(host))
        copy_s = time.perf_counter() - began_s
        with self._lock:
            first = 0
            for job in jobs:
                end = first + len(job.host)
                share_s = copy_s * len(job.host) / len(host)
                self._results[job.number] = CopyResult(intact=bool(intact[first:end].all()), copy_s=share_s)
                first = end
        # The last layer counts as there when the results are: after the forward pass, all of them are known.
        for arrival in arrivals:
            arrival.set()


class _Lane:
    """A thread that does one thing after the other."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], None], threading.Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, task: Callable[[], None]) -> threading.Event:
        done = threading.Event()
        self._tasks.put((task, done))
        return done

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()

    def _run(self) -> None:
        # vLLM makes its KV caches in this mode, and outside of it they could not be written to.
        with torch.inference_mode():
            while (entry := self._tasks.get()) is not None:
                task, done = entry
                try:
                    task()
                finally:
                    done.set()
