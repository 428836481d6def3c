"""The scheduler's side of all copies: the block ledger with ids.

`BlockLedger` knows lengths; here each request's host blocks are a row of ids beside it. Device blocks belong to the
engine's own pool, which counts references: a copy that runs behind steps holds one on each block it reads (`pin`), so
that blocks of a request that is preempted or ends meanwhile are free when the copy ends, and nobody waits for it.

The ledger's device rows hold complete blocks only, and each request has a row of its own: a block that several requests
share counts with each of them. The engine's pool is the truth about what is free, so the ledger gets device blocks
enough for all rows.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Protocol

from proserve_core.blocks import BlockLedger, Copy, Direction, Holding
from proserve_engine.kv.messages import CopyJob, CopyReport, CopyResult, together


class DevicePool(Protocol):
    """The engine's device blocks."""

    def pin(self, blocks: Sequence[int]) -> None:
        """Keep the blocks from being given to others."""

    def unpin(self, blocks: Sequence[int]) -> None:
        """The reverse, once for each `pin`."""


class EndedCopy:
    """A copy that is over."""

    __slots__ = ("blocks", "copy_s", "direction", "given_up", "intact", "request_id")

    def __init__(self, job: "_Job", result: CopyResult) -> None:
        self.request_id = job.copy.request_id
        self.direction = job.copy.direction
        self.blocks = job.job.device
        self.intact = result.intact
        self.copy_s = result.copy_s
        self.given_up = job.holding.ended
        """Nobody wants it any more: its request is gone or was preempted, or the cache was reset."""


class _Row:
    """Host blocks of one request, from its first on: those that hold a copy."""

    __slots__ = ("holding", "ids")

    def __init__(self, holding: Holding) -> None:
        self.holding = holding
        self.ids: list[int] = []


class _Job:
    """A copy under way."""

    __slots__ = ("copy", "holding", "job", "pinned", "result", "row")

    def __init__(self, copy: Copy, job: CopyJob, row: _Row, *, pinned: bool) -> None:
        self.copy = copy
        self.job = job
        self.row = row
        self.holding = row.holding
        self.pinned = pinned
        self.result: CopyResult | None = None


class Copies:
    """All requests' blocks on the host, and all copies under way.

    Args:
        device_rows: blocks of all requests' rows together, at most.
        workers: that do each copy, each for its part of the model.
    """

    def __init__(self, *, device_rows: int, host_blocks: int, pool: DevicePool, workers: int = 1) -> None:
        self.ledger = BlockLedger(device_blocks=device_rows, host_blocks=host_blocks)
        self._free = list(range(host_blocks))
        heapify(self._free)
        self._rows: dict[str, _Row] = {}
        self._jobs: dict[int, _Job] = {}
        self._pool = pool
        self._workers = workers

    @property
    def requests(self) -> tuple[str, ...]:
        return tuple(self._rows)

    @property
    def under_way(self) -> int:
        """Copies that have not ended."""
        return len(self._jobs)

    @property
    def draining(self) -> bool:
        """Whether device blocks of preempted or ended requests are free as soon as a copy ends."""
        return any(job.pinned and job.holding.draining for job in self._jobs.values())

    def add(self, request_id: str) -> None:
        """A request arrives."""
        self.ledger.add(request_id)
        self._rows[request_id] = _Row(self.ledger.holding(request_id))

    def holding(self, request_id: str) -> Holding:
        return self.ledger.holding(request_id)

    def complete(self, request_id: str, blocks: int) -> None:
        """The request's first `blocks` device blocks are full and computed."""
        holding = self.ledger.holding(request_id)
        if holding.restore is None and blocks > holding.complete:
            self.ledger.grow(request_id, blocks - holding.device)
            self.ledger.complete(request_id, blocks)

    def offload(self, request_id: str, device: Sequence[int], *, blocks: int, pin: bool) -> CopyJob | None:
        """Begin to copy the first `blocks` uncopied blocks to the host, fewer if it is full; None if it has no room.

        Args:
            device: the request's device blocks, from its first on.
            pin: hold the device blocks until the copy ends; False if the copy is done before anybody could write there.
        """
        copy, evictions = self.ledger.start_offload(request_id, blocks)
        for eviction in evictions:
            self._trim(self._rows[eviction.request_id])
        if copy is None:
            return None
        host = tuple(heappop(self._free) for _ in range(copy.blocks))
        source = tuple(device[copy.first : copy.first + copy.blocks])
        if pin:
            self._pool.pin(source)
        return self._begin(copy, CopyJob(number=copy.number, device=source, host=host), pinned=pin)

    def restore(self, request_id: str, device: Sequence[int], *, behind: int, blocks: int) -> CopyJob:
        """Begin to fill `blocks` device blocks from the host.

        Args:
            device: the request's device blocks, from its first on.
            behind: device blocks in front of them that it has again without a copy.
        """
        self.complete(request_id, behind)
        copy = self.ledger.start_restore(request_id, blocks)
        end = copy.first + copy.blocks
        host = tuple(self._rows[request_id].ids[copy.first : end])
        return self._begin(copy, CopyJob(number=copy.number, device=tuple(device[copy.first : end]), host=host))

    def preempt(self, request_id: str) -> None:
        """The request loses its device blocks. One whose blocks are just coming back loses its host blocks, too."""
        holding = self.ledger.holding(request_id)
        if holding.restore is not None:
            self.drop(request_id)
        elif holding.device:
            self.ledger.preempt(request_id)

    def end(self, request_id: str) -> None:
        """The request is gone. What its copies hold is free when they end."""
        row = self._rows.pop(request_id)
        self.ledger.abort(request_id)
        self._trim(row)

    def drop(self, request_id: str) -> None:
        """Forget all blocks of the request."""
        self.end(request_id)
        self.add(request_id)

    def reset(self) -> None:
        """Forget all blocks of all requests, and let go of the device at once: whatever is still copied is not used."""
        for request_id in self.requests:
            self.drop(request_id)
        for job in self._jobs.values():
            self._unpin(job)

    def report(self, report: CopyReport) -> list[EndedCopy]:
        """Take in what workers report; returns the copies that all of them have ended."""
        ended: list[EndedCopy] = []
        for number, result in report.results.items():
            job = self._jobs[number]
            job.result = result if job.result is None else together(job.result, result)
            if job.result.workers == self._workers:
                ended.append(EndedCopy(job, job.result))
                self._end(job, intact=job.result.intact)
        return ended

    def check(self) -> None:
        """Whether everything adds up, ids included.

        Raises:
            LedgerError, AssertionError: it does not.
        """
        self.ledger.check()
        rows = {id(row): row for row in self._rows.values()} | {id(job.row): job.row for job in self._jobs.values()}
        held = [block for row in rows.values() for block in row.ids]
        held += [b for job in self._jobs.values() if job.copy.direction is Direction.OFFLOAD for b in job.job.host]
        everything = sorted(held + self._free)
        assert everything == list(range(self.ledger.host_blocks)), f"host blocks {everything} are not all, once"
        assert all(len(row.ids) == row.holding.ready for row in rows.values()), "rows are not as long as the ledger's"

    def _begin(self, copy: Copy, job: CopyJob, *, pinned: bool = False) -> CopyJob:
        self._jobs[copy.number] = _Job(copy, job, self._rows[copy.request_id], pinned=pinned)
        return job

    def _end(self, job: _Job, *, intact: bool) -> None:
        del self._jobs[job.copy.number]
        row, host = job.row, job.job.host
        if job.copy.direction is Direction.RESTORE:
            (self.ledger.finish_restore if intact else self.ledger.fail_restore)(job.copy)
        elif intact:
            before = job.holding.ready
            self.ledger.finish_offload(job.copy)
            if job.copy.first == before:
                row.ids += host
            else:
                self._release(host)
        else:
            self.ledger.fail_offload(job.copy)
            self._release(host)
        self._trim(row)
        self._unpin(job)

    def _trim(self, row: _Row) -> None:
        """Give back what the ledger has taken from the end of the row."""
        self._release(row.ids[row.holding.ready :])
        del row.ids[row.holding.ready :]

    def _release(self, host: Sequence[int]) -> None:
        for block in host:
            heappush(self._free, block)

    def _unpin(self, job: _Job) -> None:
        if job.pinned:
            job.pinned = False
            self._pool.unpin(job.job.device)
