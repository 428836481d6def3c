"""A pretended engine whose KV blocks are copied by streams in an odd order: who reads or overwrites what when.

Each step it computes new blocks, gives up some, reads all that it has in each layer and notes what it did not expect.
What may be used again when is what vLLM and ProServe's scheduler guarantee: blocks that are copied behind steps stay
until the copy is reported, all others may be given to somebody else in the very next step, and the report of a step is
asked for when its output is there, while the next step is under way already.
"""

import random
from collections import deque
from typing import Any

from odd_streams import OddEvent, OddStreams
from proserve_core.blocks import Reload
from proserve_engine.kv.cuda_copier import CudaCopier
from proserve_engine.kv.layers import KvLayers
from proserve_engine.kv.messages import CopyJob, Report, StepCopies
from proserve_engine.kv.worker import CopyWorker


class OddEngine:
    """Blocks of one value each; the layers' values differ by their numbers."""

    def __init__(
        self, streams: OddStreams, caches: dict[str, Any], *, blocks: int, host_blocks: int, seed: int
    ) -> None:
        self.streams = streams
        self.layers = KvLayers(caches, blocks)
        self.copier = CudaCopier(self.layers, host_blocks, streams)
        self.worker = CopyWorker(self.copier, self.layers.number)
        self.wrong: list[str] = []
        self.restored = 0
        self._random = random.Random(seed)
        self._names = list(caches)
        self._free = list(range(blocks))
        self._held: dict[int, int] = {}
        self._pinned: set[int] = set()
        self._free_host = list(range(host_blocks))
        self._ready: dict[int, int] = {}
        """Values on the host, by host block."""
        self._jobs: dict[int, tuple[str, CopyJob, dict[int, int]]] = {}
        """What a copy is, and the values that it should bring, by host block."""
        self._value = 0
        self._reports: deque[tuple[OddEvent, Report | None]] = deque()

    def step(self, *, reload: Reload = Reload.PIPELINED) -> None:
        """One step, and the output of the one before."""
        flushes, offloads = [], []
        for job in self._to_host("flush"):
            flushes.append(job)
            for block in job.device:
                del self._held[block]
                self._free.append(block)
        for job in self._to_host("offload"):
            offloads.append(job)
            self._pinned.update(job.device)
        for block in self._some([b for b in self._held if b not in self._pinned], 2):
            del self._held[block]
            self._free.append(block)
        copies = StepCopies(
            flushes=tuple(flushes), offloads=tuple(offloads), restores=tuple(self._from_host()), reload=reload
        )
        self.worker.before_step(copies)
        self.worker.start_restores(copies)
        fresh = self._some(self._free, 3)
        for block in fresh:
            self._take(block, self._next_value())
        for number, name in enumerate(self._names):
            self.worker.wait_for_layer(name)
            self.compute(number, dict(self._held), fresh)
        self.worker.after_step()
        self._reports.append((self.streams.record(self.streams.compute), self.worker.report()))
        if len(self._reports) > 1:
            self._look_at_output()

    def drain(self) -> None:
        """Until all is reported."""
        while self._reports:
            self._look_at_output()
        while self._jobs:
            # Nobody waits for copies behind steps, so some streams would never move on.
            self.copier.finish()
            self._reports.append((self.streams.record(self.streams.compute), self.worker.report()))
            self._look_at_output()

    def compute(self, number: int, held: dict[int, int], fresh: list[int]) -> None:
        """A layer of the forward pass: write the new blocks, read them all."""

        def layer() -> None:
            for block in fresh:
                self._fill(number, block, held[block])
            for block, value in held.items():
                if any((plane[block] != (value + number) % 256).any() for plane in self.layers.layers[number]):
                    self.wrong.append(f"block {block} of layer {number} is not {value}")

        self.streams.run(self.streams.compute, layer)

    def _fill(self, number: int, block: int, value: int) -> None:
        for plane in self.layers.layers[number]:
            plane[block] = (value + number) % 256

    def _to_host(self, kind: str) -> list[CopyJob]:
        jobs: list[CopyJob] = []
        for _ in range(self._random.randrange(3)):
            candidates = [block for block in self._held if block not in self._pinned]
            blocks = self._some(candidates, min(4, len(self._free_host)))
            blocks = [b for b in blocks if all(b not in job.device for job in jobs)]
            if not blocks:
                continue
            host = [self._free_host.pop(self._random.randrange(len(self._free_host))) for _ in blocks]
            values = {h: self._held[d] for d, h in zip(blocks, host, strict=True)}
            jobs.append(self._job(kind, blocks, host, values))
        return jobs

    def _from_host(self) -> list[CopyJob]:
        jobs = []
        for _ in range(self._random.randrange(3)):
            host = self._some(list(self._ready), min(4, len(self._free)))
            if not host:
                continue
            values = {block: self._ready.pop(block) for block in host}
            device = self._some(self._free, len(host), exactly=True)
            for block, value in zip(device, values.values(), strict=True):
                self._take(block, value)
            jobs.append(self._job("restore", device, host, values))
        return jobs

    def _look_at_output(self) -> None:
        output, report = self._reports.popleft()
        self.streams.finish(output)
        if report is None:
            return
        for number, result in report().results.items():
            kind, job, values = self._jobs.pop(number)
            if not result.intact:
                self.wrong.append(f"{kind} {number} is not intact")
            if kind == "restore":
                self.restored += len(values)
                self._free_host += values
                continue
            if kind == "offload":
                self._pinned.difference_update(job.device)
            self._ready |= values
            for host, value in values.items():
                for layer, planes in enumerate(self.layers.layers):
                    if any((self.copier.mirror.host(p)[host] != (value + layer) % 256).any() for p in planes):
                        self.wrong.append(f"{kind} {number} brought something else than {value}")

    def _job(self, kind: str, device: list[int], host: list[int], values: dict[int, int]) -> CopyJob:
        job = CopyJob(number=self._next_value(), device=tuple(device), host=tuple(host))
        self._jobs[job.number] = (kind, job, values)
        return job

    def _take(self, block: int, value: int) -> None:
        self._free.remove(block)
        self._held[block] = value

    def _some(self, candidates: list[int], most: int, *, exactly: bool = False) -> list[int]:
        count = min(most, len(candidates))
        return self._random.sample(candidates, count if exactly else self._random.randint(0, count))

    def _next_value(self) -> int:
        self._value += 1
        return self._value
