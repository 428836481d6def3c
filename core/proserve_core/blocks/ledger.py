"""Who holds which KV blocks, on the device and on the host, and what is being copied.

Pure counts: every state of a request is the length of a row (`blocks.holding`), an engine maps them to block ids.
Offloads go in order, eviction takes the end of a row, and a request has at most one copy under way per direction. While
a resident's blocks are complete, the device owns them and the host has a copy; once it is preempted the host owns what
it has and the rest is gone.

A copy holds what it reads and writes until it ends: device blocks whose offload is under way when their request is
preempted are released when the copy ends, not before (ProServe, section 4.3; vLLM would wait for the copy). If
the request ends, its copies go on without it and what they held is released when they end.

Other requests that begin alike may restore from a request's host blocks. That leaves the row where it is: they only
read. So the row of a request that is done may be kept for them (`retire`); it stays until somebody needs the room.

Host full: blocks are taken from kept rows first, the least recently used of them first; then from the request whose
blocks are worth least, of equals the least recently used; always from the end of the row. Never from one with a copy
under way, and never for a request that is worth less than who would lose them.
"""

import itertools
from collections.abc import Iterator

from proserve_core.blocks.holding import Copy, Eviction, Holding, LedgerError, check_rows, refusal
from proserve_core.blocks.transfer import Direction


class BlockLedger:
    """The blocks of one engine."""

    def __init__(self, *, device_blocks: int, host_blocks: int) -> None:
        if device_blocks < 1 or host_blocks < 0:
            raise ValueError(
                f"device_blocks {device_blocks} must be at least 1 and host_blocks {host_blocks} at least 0"
            )
        self.device_blocks = device_blocks
        self.host_blocks = host_blocks
        self.free_device = device_blocks
        self.free_host = host_blocks
        self.draining = 0
        """Device blocks of preempted and ended requests that are free once their offload ends."""
        self.evicted = 0
        """Host blocks evicted so far."""
        self._holdings: dict[str, Holding] = {}
        self._orphans: dict[int, Holding] = {}
        """Of requests that are gone, by the number of a copy that is still under way."""
        self._kept: dict[Holding, None] = {}
        """Of requests that are gone: rows on the host for others, the least recently used first."""
        self._numbers = itertools.count(1)
        self._clock = itertools.count(1)

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """What each request has that is not done."""
        return tuple(self._holdings.values())

    def holding(self, request_id: str) -> Holding:
        """What the request has.

        Raises:
            LedgerError: it was not added, or has ended.
        """
        try:
            return self._holdings[request_id]
        except KeyError:
            raise LedgerError(f"request {request_id!r} is not in the ledger: add it first") from None

    def add(self, request_id: str) -> None:
        """A request arrives, without blocks."""
        if request_id in self._holdings:
            raise LedgerError(f"request {request_id!r} is in the ledger already")
        self._holdings[request_id] = Holding(request_id=request_id)

    def set_worth(self, request_id: str, worth: float) -> None:
        """Say what the request's host blocks are worth from now on; infinite: they are about to be restored."""
        self.holding(request_id).worth = worth

    def grow(self, request_id: str, blocks: int) -> None:
        """Give the request `blocks` device blocks more."""
        holding = self.holding(request_id)
        if not 0 <= blocks <= self.free_device:
            raise refusal(holding, f"takes {blocks} device blocks, {self.free_device} are free")
        holding.device += blocks
        self.free_device -= blocks

    def complete(self, request_id: str, blocks: int) -> None:
        """The first `blocks` device blocks are full and computed."""
        holding = self.holding(request_id)
        held = holding.device if holding.restore is None else holding.complete
        if not holding.complete <= blocks <= held:
            raise refusal(holding, f"completes {blocks} blocks, possible are {holding.complete} to {held}")
        holding.complete = blocks

    def start_offload(self, request_id: str, blocks: int) -> tuple[Copy | None, tuple[Eviction, ...]]:
        """Begin to copy the request's first `blocks` uncopied blocks to the host, fewer if the host is full.

        Returns:
            The copy, or None if the host has no room at all, and who lost host blocks to it.
        """
        holding = self.holding(request_id)
        if holding.offload is not None:
            raise refusal(holding, f"offloads {blocks} blocks while {holding.offload.blocks} are being offloaded")
        if not 1 <= blocks <= holding.uncopied:
            raise refusal(holding, f"offloads {blocks} blocks, {holding.uncopied} are complete and not copied")
        evictions = self._evict(holding, blocks - self.free_host) if blocks > self.free_host else ()
        blocks = min(blocks, self.free_host)
        if blocks == 0:
            return None, evictions
        self.free_host -= blocks
        holding.offload = copy = self._begin_copy(holding, Direction.OFFLOAD, first=holding.ready, blocks=blocks)
        return copy, evictions

    def finish_offload(self, copy: Copy) -> int:
        """The copy is on the host. Returns how many device blocks this released."""
        holding = self._end_copy(copy, Direction.OFFLOAD)
        if copy.first == holding.ready:
            holding.ready += copy.blocks
            holding.used = next(self._clock)
        else:
            # A restore failed meanwhile: the blocks before these are gone.
            self.free_host += copy.blocks
        return self._settle(holding, copy)

    def fail_offload(self, copy: Copy) -> int:
        """The copy failed: its host blocks are free again. Returns how many device blocks this released."""
        holding = self._end_copy(copy, Direction.OFFLOAD)
        self.free_host += copy.blocks
        return self._settle(holding, copy)

    def preempt(self, request_id: str) -> int:
        """The request loses its device blocks. Returns how many are free now; those being offloaded follow later."""
        holding = self.holding(request_id)
        if holding.device == 0:
            raise refusal(holding, "is preempted without device blocks")
        if holding.restore is not None:
            raise refusal(holding, f"is preempted while {holding.restore.blocks} blocks are being restored")
        released = self._leave_device(holding)
        holding.used = next(self._clock)
        return released

    def start_restore(self, request_id: str, blocks: int, *, lender: Holding | None = None) -> Copy:
        """Take `blocks` device blocks and begin to fill them from the host, behind those that are complete.

        Args:
            lender: whose host blocks they are filled from, if not the request's own; it begins with the same blocks.
        """
        holding = self.holding(request_id)
        row = holding if lender is None else lender
        if holding.restore is not None:
            raise refusal(holding, f"restores {blocks} blocks while {holding.restore.blocks} are being restored")
        if holding.device > holding.complete:
            raise refusal(
                holding, f"restores {blocks} blocks behind {holding.complete} complete ones of {holding.device}"
            )
        available = max(0, row.usable - holding.complete)
        if not 1 <= blocks <= available:
            raise refusal(holding, f"restores {blocks} blocks, the host has {available} it could use")
        if blocks > self.free_device:
            raise refusal(holding, f"restores {blocks} blocks, {self.free_device} device blocks are free")
        self.free_device -= blocks
        holding.device += blocks
        self._use(row)
        if row is not holding:
            holding.lender = row
            row.readers += 1
        holding.restore = copy = self._begin_copy(holding, Direction.RESTORE, first=holding.complete, blocks=blocks)
        return copy

    def finish_restore(self, copy: Copy) -> int:
        """The blocks are on the device. Returns how many device blocks this released: those of an ended request."""
        holding = self._end_copy(copy, Direction.RESTORE)
        holding.complete = copy.first + copy.blocks
        self._use(self._end_reading(holding))
        return self._settle(holding, copy)

    def fail_restore(self, copy: Copy) -> int:
        """The blocks did not arrive: they are free again, and the host's row is cut before them, as it is not to be
        trusted. Returns how many device blocks this released.
        """
        holding = self._end_copy(copy, Direction.RESTORE)
        row = holding if holding.lender is None else holding.lender
        row.damaged_from = copy.first if row.damaged_from is None else min(copy.first, row.damaged_from)
        self._end_reading(holding)
        if holding.ended:
            return self._settle(holding, copy)
        holding.device -= copy.blocks
        self.free_device += copy.blocks
        return copy.blocks

    def free(self, request_id: str) -> int:
        """The request is done. Returns how many device blocks are free now."""
        holding = self.holding(request_id)
        if holding.restore is not None:
            raise refusal(holding, f"is done while {holding.restore.blocks} blocks are being restored: abort it")
        return self.abort(request_id)

    def retire(self, request_id: str) -> int:
        """The request is done; its host blocks stay for others. Returns how many device blocks are free now."""
        holding = self.holding(request_id)
        if holding.restore is not None or not holding.usable + holding.offloading:
            return self.abort(request_id)
        del self._holdings[request_id]
        if holding.offload is not None:
            self._orphans[holding.offload.number] = holding
        released = self._leave_device(holding)
        holding.used = next(self._clock)
        self._kept[holding] = None
        return released

    def forget_kept(self) -> None:
        """Keep no rows of requests that are done. What copies read of them is free when these end."""
        for holding in self._kept:
            holding.ended = True
            if not holding.in_use:
                self._leave_host(holding)
        self._kept.clear()

    def abort(self, request_id: str) -> int:
        """Forget the request. Returns how many device blocks are free now; those being copied follow later."""
        holding = self.holding(request_id)
        del self._holdings[request_id]
        holding.ended = True
        arriving = holding.restore.blocks if holding.restore is not None else 0
        holding.device -= arriving
        released = self._leave_device(holding)
        holding.device = arriving
        for copy in (holding.offload, holding.restore):
            if copy is not None:
                self._orphans[copy.number] = holding
        if not holding.in_use:
            self._leave_host(holding)
        return released

    @property
    def kept(self) -> int:
        """Host blocks of requests that are done, kept for others."""
        return sum(holding.ready for holding in self._kept)

    @property
    def room(self) -> int:
        """Host blocks that are free or kept: whoever is not done loses none before these are gone."""
        return self.free_host + sum(holding.ready for holding in self._idle_kept())

    def next_evicted(self) -> Holding | None:
        """Who would lose a host block to the next one copied; None while the host has room, or nobody could."""
        return next(iter(self._evictable()), None) if self.room == 0 else None

    def check(self) -> None:
        """Whether everything adds up: each block is with one holder or free, and no row has a hole.

        Raises:
            LedgerError: it does not; the message says what.
        """
        known = (*self._holdings.values(), *self._orphans.values(), *self._kept)
        everyone = set(known) | {holding.lender for holding in known if holding.lender is not None}
        for holding in everyone:
            check_rows(holding)
            if holding.readers != sum(other.lender is holding for other in everyone):
                raise refusal(holding, f"is read by {holding.readers} restores, which are not those under way")
        on_device = sum(holding.device + holding.draining for holding in everyone)
        if self.free_device < 0 or on_device + self.free_device != self.device_blocks:
            raise LedgerError(
                f"{on_device} device blocks held and {self.free_device} free are not {self.device_blocks}"
            )
        on_host = sum(holding.ready + holding.offloading for holding in everyone)
        if self.free_host < 0 or on_host + self.free_host != self.host_blocks:
            raise LedgerError(f"{on_host} host blocks held and {self.free_host} free are not {self.host_blocks}")
        if self.draining != sum(holding.draining for holding in everyone):
            raise LedgerError(f"{self.draining} device blocks draining are not the sum over the requests")

    def _leave_device(self, holding: Holding) -> int:
        """Take the request's device blocks away, leaving those being offloaded to their copy."""
        if holding.offload is not None and not holding.draining:
            holding.draining = holding.offload.blocks
            holding.device -= holding.draining
            self.draining += holding.draining
        released = holding.device
        holding.device = holding.complete = 0
        self.free_device += released
        return released

    def _leave_host(self, holding: Holding) -> None:
        self.free_host += holding.ready
        holding.ready = 0
        holding.damaged_from = None

    def _use(self, row: Holding) -> None:
        """Note that the row was read."""
        row.used = next(self._clock)
        if row in self._kept:
            del self._kept[row]
            self._kept[row] = None

    def _end_reading(self, holding: Holding) -> Holding:
        """The restore no longer reads its row, which loses what is damaged once nobody does. Returns the row."""
        row = holding
        if holding.lender is not None:
            row, holding.lender = holding.lender, None
            row.readers -= 1
        if row.damaged_from is not None and not row.being_read:
            self.free_host += row.ready - row.usable
            row.ready = row.usable
            row.damaged_from = None
        if not row.in_use:
            if row.ended:
                self._leave_host(row)
            elif not row.ready:
                self._kept.pop(row, None)
        return row

    def _begin_copy(self, holding: Holding, direction: Direction, *, first: int, blocks: int) -> Copy:
        return Copy(
            number=next(self._numbers),
            request_id=holding.request_id,
            direction=direction,
            first=first,
            blocks=blocks,
        )

    def _end_copy(self, copy: Copy, direction: Direction) -> Holding:
        """Whose copy this is; the copy is no longer under way."""
        holding = self._orphans.get(copy.number) or self._holdings.get(copy.request_id)
        if copy.direction is direction and holding is not None and copy in (holding.offload, holding.restore):
            self._orphans.pop(copy.number, None)
            if direction is Direction.OFFLOAD:
                holding.offload = None
            else:
                holding.restore = None
            return holding
        raise LedgerError(
            f"request {copy.request_id!r}: copy {copy.number} ends as {direction.value} of {copy.blocks} blocks, "
            "but no such copy is under way"
        )

    def _settle(self, holding: Holding, copy: Copy) -> int:
        """Release what a copy held that has ended; returns the device blocks among it."""
        released = 0
        if copy.direction is Direction.OFFLOAD:
            released = holding.draining
            self.draining -= released
            holding.draining = 0
        if holding.ended:
            if copy.direction is Direction.RESTORE:
                released += holding.device
                holding.device = holding.complete = 0
            if not holding.in_use:
                self._leave_host(holding)
        elif not holding.ready and not holding.in_use:
            self._kept.pop(holding, None)
        self.free_device += released
        return released

    def _evictable(self) -> list[Holding]:
        """Requests that could lose host blocks, first the one who would first."""
        candidates = [holding for holding in self._holdings.values() if holding.ready and not holding.in_use]
        candidates.sort(key=lambda holding: (holding.worth, holding.used))
        return candidates

    def _idle_kept(self) -> Iterator[Holding]:
        return (holding for holding in self._kept if not holding.in_use)

    def _evict(self, newcomer: Holding, blocks: int) -> tuple[Eviction, ...]:
        """Make room for `blocks` more host blocks of `newcomer`, as far as others' are worth no more."""
        evictions: list[Eviction] = []

        def take(holding: Holding) -> None:
            nonlocal blocks
            taken = min(blocks, holding.ready)
            holding.ready -= taken
            self.free_host += taken
            self.evicted += taken
            blocks -= taken
            evictions.append(Eviction(holding, taken))

        for holding in tuple(self._idle_kept()):
            if blocks == 0:
                break
            take(holding)
            if not holding.ready:
                del self._kept[holding]
        for holding in self._evictable() if blocks else ():
            if blocks == 0 or holding.worth > newcomer.worth:
                break
            if holding is not newcomer:
                take(holding)
        return tuple(evictions)
