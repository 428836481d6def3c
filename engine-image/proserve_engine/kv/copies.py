"""The scheduler's side of all copies: the block ledger with ids.

`BlockLedger` knows lengths; here each row of host blocks is a list of ids beside it. Device blocks belong to the
engine's own pool, which counts references: a copy that runs behind steps holds one on each block it reads (`pin`), so
that blocks of a request that is preempted or ends meanwhile are free when the copy ends, and nobody waits for it.

The ledger's device rows hold complete blocks only, and each request has a row of its own: a block that several requests
share counts with each of them. The engine's pool is the truth about what is free, so the ledger gets device blocks
enough for all rows.

Requests that begin alike restore from each other's host blocks, found by the hashes of blocks (`HostPrefixes`). They
only read them: what a request copies to the host is its own, even if another one's row has the same.
"""

from collections.abc import Hashable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol

from proserve_core.blocks import BlockLedger, Copy, Direction, Holding
from proserve_engine.kv.messages import CopyJob, CopyReport, CopyResult, together
from proserve_engine.kv.prefixes import HostPrefixes


class DevicePool(Protocol):
    """The engine's device blocks."""

    def pin(self, blocks: Sequence[int]) -> None:
        """Keep the blocks from being given to others."""

    def unpin(self, blocks: Sequence[int]) -> None:
        """The reverse, once for each `pin`."""


class Source(NamedTuple):
    """Host blocks that a request could start from."""

    row: Holding
    """Who has them: the request itself or another one."""
    blocks: int
    """From the first on."""


class EndedCopy:
    """A copy that is over."""

    __slots__ = ("blocks", "both_busy", "copy_s", "direction", "intact", "request_id")

    def __init__(self, job: "_Job", result: CopyResult) -> None:
        self.request_id = job.copy.request_id
        self.direction = job.copy.direction
        self.blocks = job.job.device
        self.intact = result.intact
        self.copy_s = result.copy_s
        self.both_busy = job.both_busy
        """Copies ran the other way meanwhile, as far as is known here."""


class _Job:
    """A copy under way."""

    __slots__ = ("behind", "both_busy", "copy", "hashes", "holding", "job", "pinned", "result", "row")

    def __init__(
        self,
        copy: Copy,
        job: CopyJob,
        holding: Holding,
        row: Holding,
        *,
        pinned: bool = False,
        hashes: Sequence[Hashable] = (),
    ) -> None:
        self.copy = copy
        self.job = job
        self.holding = holding
        self.row = row
        """Whose host blocks it reads or writes."""
        self.pinned = self.behind = pinned
        """Nobody waits for it."""
        self.both_busy = False
        self.hashes = hashes
        """Of the blocks that it writes to the host."""
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
        self._rows: dict[Holding, list[int]] = {}
        """Host blocks that hold a copy, by who has them, from the first on."""
        self._prefixes = HostPrefixes()
        self._jobs: dict[int, _Job] = {}
        self._shortened: set[str] = set()
        self._pool = pool
        self._workers = workers

    @property
    def under_way(self) -> int:
        """Copies that have not ended."""
        return len(self._jobs)

    @property
    def sending(self) -> bool:
        """Whether copies to the host are under way for which nobody waits."""
        return any(job.behind for job in self._jobs.values())

    def take_shortened(self) -> set[str]:
        """Who has lost host blocks since the last call."""
        shortened, self._shortened = self._shortened, set()
        return shortened

    @property
    def draining(self) -> bool:
        """Whether device blocks of preempted or ended requests are free as soon as a copy ends."""
        return any(job.pinned and job.holding.draining for job in self._jobs.values())

    def add(self, request_id: str) -> None:
        """A request arrives."""
        self.ledger.add(request_id)

    def holding(self, request_id: str) -> Holding:
        return self.ledger.holding(request_id)

    def source(self, request_id: str, hashes: Sequence[Hashable] = ()) -> Source:
        """What the request could start from: its own blocks, or those of another one if it has more.

        Args:
            hashes: of the request's blocks, if it may use those of others.
        """
        own = self.ledger.holding(request_id)
        found = self._prefixes.longest(hashes)
        return Source(own, own.usable) if found is None or found[1] <= own.usable else Source(*found)

    def complete(self, request_id: str, blocks: int) -> None:
        """The request's first `blocks` device blocks are full and computed."""
        holding = self.ledger.holding(request_id)
        if holding.restore is None and blocks > holding.complete:
            self.ledger.grow(request_id, blocks - holding.device)
            self.ledger.complete(request_id, blocks)

    def offload(
        self, request_id: str, device: Sequence[int], *, blocks: int, pin: bool, hashes: Sequence[Hashable] = ()
    ) -> CopyJob | None:
        """Begin to copy the first `blocks` uncopied blocks to the host, fewer if it is full; None if it has no room.

        Args:
            device: the request's device blocks, from its first on.
            pin: hold the device blocks until the copy ends; False if the copy is done before anybody could write there.
            hashes: of the request's blocks, from its first on, if others may use them.
        """
        copy, evictions = self.ledger.start_offload(request_id, blocks)
        for eviction in evictions:
            self._trim(eviction.holding)
        if copy is None:
            return None
        end = copy.first + copy.blocks
        host = tuple(heappop(self._free) for _ in range(copy.blocks))
        source = tuple(device[copy.first : end])
        if pin:
            self._pool.pin(source)
        holding = self.ledger.holding(request_id)
        job = CopyJob(number=copy.number, device=source, host=host)
        sent = _Job(copy, job, holding, holding, pinned=pin, hashes=hashes[copy.first : end])
        if pin:
            for other in self._jobs.values():
                if other.copy.direction is Direction.RESTORE:
                    other.both_busy = sent.both_busy = True
        self._jobs[copy.number] = sent
        return job

    def restore(
        self, request_id: str, device: Sequence[int], *, behind: int, blocks: int, row: Holding | None = None
    ) -> CopyJob:
        """Begin to fill `blocks` device blocks from the host.

        Args:
            device: the request's device blocks, from its first on.
            behind: device blocks in front of them that it has again without a copy.
            row: who has the host blocks; None: the request itself.
        """
        self.complete(request_id, behind)
        holding = self.ledger.holding(request_id)
        row = row or holding
        copy = self.ledger.start_restore(request_id, blocks, lender=row)
        end = copy.first + copy.blocks
        host = tuple(self._rows[row][copy.first : end])
        job = CopyJob(number=copy.number, device=tuple(device[copy.first : end]), host=host)
        back = _Job(copy, job, holding, row)
        back.both_busy = self.sending
        self._jobs[copy.number] = back
        return job

    def preempt(self, request_id: str) -> None:
        """The request loses its device blocks. One whose blocks are just coming back loses its host blocks, too."""
        holding = self.ledger.holding(request_id)
        if holding.restore is not None:
            self.drop(request_id)
        elif holding.device:
            self.ledger.preempt(request_id)

    def end(self, request_id: str, *, keep: bool = False) -> None:
        """The request is gone. What its copies hold is free when they end.

        Args:
            keep: leave its host blocks to requests that begin alike, until somebody needs the room.
        """
        holding = self.ledger.holding(request_id)
        (self.ledger.retire if keep else self.ledger.abort)(request_id)
        self._trim(holding)

    def drop(self, request_id: str) -> None:
        """Forget all blocks of the request."""
        self.end(request_id)
        self.add(request_id)

    def reset(self) -> None:
        """Forget all blocks of all requests, and let go of the device at once: whatever is still copied is not used."""
        self.ledger.forget_kept()
        for holding in self.ledger.holdings:
            self.drop(holding.request_id)
        for holding in tuple(self._rows):
            self._trim(holding)
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
        writing = [
            block for job in self._jobs.values() if job.copy.direction is Direction.OFFLOAD for block in job.job.host
        ]
        known = sorted([*self._free, *writing, *(block for ids in self._rows.values() for block in ids)])
        assert known == list(range(self.ledger.host_blocks)), "a host block is lost or has two owners"
        assert all(len(ids) == holding.ready for holding, ids in self._rows.items()), "rows are not the ledger's"

    def _end(self, job: _Job, *, intact: bool) -> None:
        del self._jobs[job.copy.number]
        row, host, first = job.row, job.job.host, job.copy.first
        if job.copy.direction is Direction.RESTORE:
            (self.ledger.finish_restore if intact else self.ledger.fail_restore)(job.copy)
        elif intact:
            follows = first == row.ready
            self.ledger.finish_offload(job.copy)
            if follows:
                self._rows.setdefault(row, []).extend(host)
                self._prefixes.extend(row, first, job.hashes)
            else:
                self._release(host)
        else:
            self.ledger.fail_offload(job.copy)
            self._release(host)
        self._trim(row)
        self._trim(job.holding)
        self._unpin(job)

    def _trim(self, row: Holding) -> None:
        """Give back what the ledger has taken from the end of the row."""
        self._prefixes.cut(row, row.usable)
        ids = self._rows.get(row, [])
        if len(ids) > row.ready:
            self._shortened.add(row.request_id)
        self._release(ids[row.ready :])
        del ids[row.ready :]
        if not ids:
            self._rows.pop(row, None)

    def _release(self, host: Sequence[int]) -> None:
        for block in host:
            heappush(self._free, block)

    def _unpin(self, job: _Job) -> None:
        if job.pinned:
            job.pinned = False
            self._pool.unpin(job.job.device)
