"""Copies KV blocks between a GPU and pinned host memory, in streams beside the computation.

Four streams order everything; the host only puts work into them, and waits for nothing but a report that is asked for
before it is there:

- **compute**, vLLM's own. Before a layer reads its cache it waits for that layer's reload; the host goes on.
- **out**, to the host, waits for what had been computed when the step began. Blocks that are copied behind steps stay
  with their request until the end is reported (`Copies.pin`), so nothing writes to them. Nobody keeps others away from
  a victim's blocks that are copied when it is preempted, so the computation waits for them.
- **back**, to the device, waits for what has been computed as well: a step in flight may still use the blocks. Nothing
  writes to its source before the copy is reported.
- **check** sums up each block's bytes from the device's memory, which is fifty times as fast as the link, beside the
  copies. What follows the step waits for the sums of its reload: until then the blocks are as they arrived.

What no layer waits for, copies behind steps and the sums of a reload, is begun when the forward pass has been launched,
so it costs the host no time before it. The report of a reload is there when the output of its step is, and is asked for
no earlier (`WorkerMetadata`).

None of this has run on a GPU (docs/blocks.md). The order is tested with streams that do what they may
(tests/support/odd_streams.py).
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from proserve_engine.kv.copy_plan import Mirror, Numbers, Pieces, pieces_of
from proserve_engine.kv.layers import KvLayers, words
from proserve_engine.kv.messages import CopyJob, CopyReport, CopyResult, Report
from proserve_engine.kv.streams import Event, Streams

_logger = logging.getLogger("vllm.proserve")

SCRATCH_BYTES = 1 << 26
"""On the device, for blocks whose bytes are summed up."""


class _Batch:
    """Copies that go together."""

    __slots__ = ("began", "checked", "device", "ended", "failed", "host", "jobs", "order", "sums", "to_host", "waits")

    def __init__(self, jobs: Sequence[CopyJob], *, to_host: bool) -> None:
        self.jobs = jobs
        self.to_host = to_host
        self.device: Numbers = np.array([block for job in jobs for block in job.device], np.int64)
        self.host: Numbers = np.array([block for job in jobs for block in job.host], np.int64)
        self.order = np.argsort(self.device)
        self.failed = False
        self.began: Event = None
        self.ended: list[Event] = []
        """Of a reload by group of layers, else one."""
        self.checked: Event = None
        self.sums: Any = None
        self.waits: list[tuple[Event, Event]] = []
        """In the computation: before and behind each wait for this."""


class CudaCopier:
    """All methods are called from the engine's thread; a report may be asked for in another one.

    Raises:
        MemoryError, RuntimeError: there is not so much memory.
    """

    def __init__(self, kv: KvLayers, host_blocks: int, streams: Streams) -> None:
        self._on = streams
        self._planes = [plane for layer in kv.layers for plane in layer]
        self.mirror = Mirror(kv, host_blocks, streams.host_memory)
        self._scratch = streams.device_memory(max(SCRATCH_BYTES, *(plane.shape[1] for plane in self._planes)))
        self.sums = np.zeros((len(self._planes), host_blocks), np.int64)
        """Of each plane's host blocks."""
        self._rows = self.mirror.rows(range(len(kv.layers)))
        groups = self.mirror.reload_groups()
        self._groups = [self.mirror.rows(group) for group in groups]
        self._group = [number for number, group in enumerate(groups) for _ in group]
        """Of each layer."""
        self._out, self._back, self._check = streams.new(), streams.new(), streams.new()
        self._waiting: list[tuple[_Batch, Event]] = []
        """Copies to the host that begin when the step has been launched, and what they come after."""
        self._leaving: list[_Batch] = []
        """Copies to the host behind steps."""
        self._reload: _Batch | None = None
        self._ended: list[_Batch] = []
        """Failed, or done when the step's output is there; not reported."""

    def flush(self, jobs: Sequence[CopyJob]) -> None:
        batch = _Batch(jobs, to_host=True)
        self._copy_out(batch, self._on.record(self._on.current()))
        if not batch.failed:
            self._wait(batch, batch.ended[0], batch.checked)
        self._ended.append(batch)

    def offload(self, jobs: Sequence[CopyJob]) -> None:
        self._waiting.append((_Batch(jobs, to_host=True), self._on.record(self._on.current())))

    def restore(self, jobs: Sequence[CopyJob]) -> None:
        batch = self._reload = _Batch(jobs, to_host=False)
        self._ended.append(batch)
        forms: dict[Any, Pieces] = {}
        device, host = batch.device[batch.order], batch.host[batch.order]
        self._on.wait(self._back, self._on.record(self._on.current()))
        batch.began = self._on.record(self._back)
        try:
            for rows in self._groups:
                self._on.copy(self._back, pieces_of(rows, forms, device, host), to_host=False)
                batch.ended.append(self._on.record(self._back))
        except RuntimeError as error:
            self._fail(batch, "restore", error)

    def wait_for_layer(self, number: int) -> None:
        if self._reload is not None and not self._reload.failed:
            self._wait(self._reload, self._reload.ended[self._group[number]])

    def wait_for_restores(self) -> None:
        if self._reload is not None and not self._reload.failed:
            self._wait(self._reload, self._reload.ended[-1])

    def after_step(self) -> None:
        waiting, self._waiting = self._waiting, []
        for batch, computed in waiting:
            self._copy_out(batch, computed)
            (self._ended if batch.failed else self._leaving).append(batch)
        if self._reload is not None:
            self._check_reload(self._reload)
            self._reload = None

    def report(self) -> Report | None:
        while self._leaving and all(map(self._on.happened, (*self._leaving[0].ended, self._leaving[0].checked))):
            self._ended.append(self._leaving.pop(0))
        ended, self._ended = self._ended, []
        return (lambda: self._report(ended)) if ended else None

    def finish(self) -> None:
        """Until all that has begun is over."""
        for stream in (self._out, self._back, self._check):
            self._on.finish(self._on.record(stream))

    def close(self) -> None:
        self.finish()
        for memory in self.mirror.memory:
            self._on.free(memory)

    def _copy_out(self, batch: _Batch, computed: Event) -> None:
        """Begin to copy to the host what was there at an event of the computation."""
        for stream in (self._out, self._check):
            self._on.wait(stream, computed)
        batch.began = self._on.record(self._out)
        try:
            device, host = batch.device[batch.order], batch.host[batch.order]
            self._on.copy(self._out, pieces_of(self._rows, {}, device, host), to_host=True)
            batch.ended.append(self._on.record(self._out))
            self._sum_up(batch)
        except RuntimeError as error:
            self._fail(batch, "offload", error)

    def _check_reload(self, batch: _Batch) -> None:
        if batch.failed:
            return
        self._on.wait(self._on.current(), batch.ended[-1])
        self._on.wait(self._check, batch.ended[-1])
        try:
            self._sum_up(batch)
        except RuntimeError as error:
            self._fail(batch, "check of a restore", error)
        else:
            self._on.wait(self._on.current(), batch.checked)

    def _sum_up(self, batch: _Batch) -> None:
        batch.sums = self._on.results(len(self._planes), len(batch.device))
        self._on.run(self._check, lambda: self._sum(batch.device, batch.sums))
        batch.checked = self._on.record(self._check)

    def _sum(self, device: Numbers, sums: Any) -> None:
        blocks = self._on.upload(device)
        there = blocks.new_empty(sums.shape)
        for number, plane in enumerate(self._planes):
            source = words(plane)
            at_once = self._scratch.shape[0] // plane.shape[1]
            for first in range(0, len(device), at_once):
                chosen = blocks[first : first + at_once]
                size = len(chosen) * plane.shape[1]
                gathered = self._scratch[:size].view(source.dtype).view(len(chosen), -1)
                torch.index_select(source, 0, chosen, out=gathered)
                torch.sum(gathered, 1, dtype=torch.int64, out=there[number, first : first + at_once])
        sums.copy_(there, non_blocking=True)

    def _fail(self, batch: _Batch, what: str, error: RuntimeError) -> None:
        """Give up; what was begun must be over before anybody else gets the blocks or the host's memory for them."""
        _logger.error("%s of %d KV blocks failed, they will be computed again: %s", what, len(batch.device), error)
        batch.failed = True
        self.finish()

    def _wait(self, batch: _Batch, *events: Event) -> None:
        compute = self._on.current()
        before = self._on.record(compute)
        for event in events:
            self._on.wait(compute, event)
        batch.waits.append((before, self._on.record(compute)))

    def _report(self, ended: Sequence[_Batch]) -> CopyReport:
        results: dict[int, CopyResult] = {}
        spent_s = {True: 0.0, False: 0.0}
        for batch in ended:
            intact = self._intact(batch)
            copy_s = 0.0 if batch.failed else self._on.between_s(batch.began, batch.ended[-1])
            for before, behind in batch.waits:
                self._on.finish(behind)
                spent_s[batch.to_host] += self._on.between_s(before, behind)
            first = 0
            for job in batch.jobs:
                end = first + len(job.host)
                share_s = copy_s * len(job.host) / len(batch.host)
                results[job.number] = CopyResult(intact=bool(intact[first:end].all()), copy_s=share_s)
                first = end
        return CopyReport(results=results, waited_s=spent_s[False], flushed_s=spent_s[True])

    def _intact(self, batch: _Batch) -> NDArray[np.bool_]:
        """Which blocks are what they should be."""
        if batch.failed:
            return np.zeros(len(batch.host), np.bool_)
        for event in (batch.ended[-1], batch.checked):
            self._on.finish(event)
        sums = np.asarray(batch.sums)
        if batch.to_host:
            self.sums[:, batch.host] = sums
        intact: NDArray[np.bool_] = (sums == self.sums[:, batch.host]).all(0)
        return intact
