"""Who holds which KV blocks, on the device and on the host, and what is being copied.

Pure counts: a request's blocks are a row from its first token on, so every state is a length. An engine maps them to
block ids. Of a request:

    device blocks   |complete: full, their KV is there |being restored |being filled|
    host blocks     |ready: a copy is there |being offloaded|

The host's copies are a row from the start as well: a copy is useful only if all blocks before it are there too, on
either side. So offloads go in order, eviction takes the end of a row, and a request has at most one copy under way per
direction. While a resident's blocks are complete, the device owns them and the host has a copy; once it is preempted
the host owns what it has and the rest is gone.

A copy holds what it reads and writes until it ends: device blocks whose offload is under way when their request is
preempted are released when the copy ends, not before (ProServe, section 4.3; vLLM would wait for the copy). If
the request ends, its copies go on without it and what they held is released when they end.

Host full: blocks are taken from the request whose blocks are worth least, the end of its row first; from the least
recently used of equals; never from one with a copy under way, and never for a request that is worth less.
"""

import itertools

import msgspec

from proserve_core.blocks.transfer import Direction


class LedgerError(RuntimeError):
    """A transition that cannot be: a bug in the caller."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy under way."""

    number: int
    request_id: str
    direction: Direction
    first: int
    """Index of its first block in the request's row."""
    blocks: int


class Eviction(msgspec.Struct, frozen=True):
    """`request_id` lost the last `blocks` of its host blocks."""

    request_id: str
    blocks: int


class Holding(msgspec.Struct, kw_only=True, gc=False):
    """What one request has. Kept by the ledger; others only read it."""

    request_id: str
    device: int = 0
    """Device blocks, those being restored included."""
    complete: int = 0
    """Device blocks, from the first on, that are full and computed."""
    ready: int = 0
    """Host blocks, from the first on, that hold a copy."""
    worth: float = 0.0
    """Gain per engine second that the copies stand for (`blocks.offload.copy_worth`): the least is evicted first."""
    used: int = 0
    """When the host blocks were last written or read, in transitions."""
    offload: Copy | None = None
    restore: Copy | None = None
    draining: int = 0
    """Device blocks that no longer belong to the request but to its offload under way."""
    ended: bool = False
    """The request is gone; what is left here belongs to its copies under way."""

    @property
    def uncopied(self) -> int:
        """Complete blocks that are neither on the host nor on their way there."""
        on_host = self.ready + (self.offload.blocks if self.offload is not None else 0)
        return self.complete - on_host if self.complete > on_host else 0

    @property
    def restorable(self) -> int:
        """Host blocks behind the complete ones."""
        return self.ready - self.complete if self.ready > self.complete else 0


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
        """Ended requests, by the number of a copy that is still under way."""
        self._numbers = itertools.count(1)
        self._clock = itertools.count(1)

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
            raise _refusal(holding, f"takes {blocks} device blocks, {self.free_device} are free")
        holding.device += blocks
        self.free_device -= blocks

    def complete(self, request_id: str, blocks: int) -> None:
        """The first `blocks` device blocks are full and computed."""
        holding = self.holding(request_id)
        held = holding.device if holding.restore is None else holding.complete
        if not holding.complete <= blocks <= held:
            raise _refusal(holding, f"completes {blocks} blocks, possible are {holding.complete} to {held}")
        holding.complete = blocks

    def start_offload(self, request_id: str, blocks: int) -> tuple[Copy | None, tuple[Eviction, ...]]:
        """Begin to copy the request's first `blocks` uncopied blocks to the host, fewer if the host is full.

        Returns:
            The copy, or None if the host has no room at all, and who lost host blocks to it.
        """
        holding = self.holding(request_id)
        if holding.offload is not None:
            raise _refusal(holding, f"offloads {blocks} blocks while {holding.offload.blocks} are being offloaded")
        if not 1 <= blocks <= holding.uncopied:
            raise _refusal(holding, f"offloads {blocks} blocks, {holding.uncopied} are complete and not copied")
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
            raise _refusal(holding, "is preempted without device blocks")
        if holding.restore is not None:
            raise _refusal(holding, f"is preempted while {holding.restore.blocks} blocks are being restored")
        released = self._leave_device(holding)
        holding.used = next(self._clock)
        return released

    def start_restore(self, request_id: str, blocks: int) -> Copy:
        """Take `blocks` device blocks and begin to fill them from the host, behind those that are complete."""
        holding = self.holding(request_id)
        if holding.restore is not None:
            raise _refusal(holding, f"restores {blocks} blocks while {holding.restore.blocks} are being restored")
        if holding.device > holding.complete:
            raise _refusal(
                holding, f"restores {blocks} blocks behind {holding.complete} complete ones of {holding.device}"
            )
        if not 1 <= blocks <= holding.restorable:
            raise _refusal(holding, f"restores {blocks} blocks, the host has {holding.restorable} it could use")
        if blocks > self.free_device:
            raise _refusal(holding, f"restores {blocks} blocks, {self.free_device} device blocks are free")
        self.free_device -= blocks
        holding.device += blocks
        holding.used = next(self._clock)
        holding.restore = copy = self._begin_copy(holding, Direction.RESTORE, first=holding.complete, blocks=blocks)
        return copy

    def finish_restore(self, copy: Copy) -> int:
        """The blocks are on the device. Returns how many device blocks this released: those of an ended request."""
        holding = self._end_copy(copy, Direction.RESTORE)
        holding.complete = copy.first + copy.blocks
        holding.used = next(self._clock)
        return self._settle(holding, copy)

    def fail_restore(self, copy: Copy) -> int:
        """The blocks did not arrive: they are free again, and the host's row is cut before them, as it is not to be
        trusted. Returns how many device blocks this released.
        """
        holding = self._end_copy(copy, Direction.RESTORE)
        self.free_host += holding.ready - copy.first
        holding.ready = copy.first
        if holding.ended:
            return self._settle(holding, copy)
        holding.device -= copy.blocks
        self.free_device += copy.blocks
        return copy.blocks

    def drop_host(self, request_id: str, blocks: int) -> None:
        """The request's last `blocks` host blocks are lost or given up."""
        holding = self.holding(request_id)
        if holding.offload is not None or holding.restore is not None:
            raise _refusal(holding, f"drops {blocks} host blocks while some are being copied")
        if not 0 <= blocks <= holding.ready:
            raise _refusal(holding, f"drops {blocks} host blocks of {holding.ready}")
        holding.ready -= blocks
        self.free_host += blocks

    def free(self, request_id: str) -> int:
        """The request is done. Returns how many device blocks are free now."""
        holding = self.holding(request_id)
        if holding.restore is not None:
            raise _refusal(holding, f"is done while {holding.restore.blocks} blocks are being restored: abort it")
        return self.abort(request_id)

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
        if holding.offload is None and holding.restore is None:
            self._leave_host(holding)
        return released

    def next_evicted(self) -> Holding | None:
        """Who would lose a host block to the next one copied; None while the host has room, or nobody could."""
        return next(iter(self._evictable()), None) if self.free_host == 0 else None

    def check(self) -> None:
        """Whether everything adds up: each block is with one holder or free, and no row has a hole.

        Raises:
            LedgerError: it does not; the message says what.
        """
        everyone = list(self._holdings.values())
        everyone += {id(holding): holding for holding in self._orphans.values()}.values()
        for holding in everyone:
            _check_rows(holding)
        on_device = sum(holding.device + holding.draining for holding in everyone)
        if self.free_device < 0 or on_device + self.free_device != self.device_blocks:
            raise LedgerError(
                f"{on_device} device blocks held and {self.free_device} free are not {self.device_blocks}"
            )
        on_host = sum(holding.ready + _offloading(holding) for holding in everyone)
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
            if holding.offload is None and holding.restore is None:
                self._leave_host(holding)
        self.free_device += released
        return released

    def _evictable(self) -> list[Holding]:
        """Who could lose host blocks, first the one who would first."""
        candidates = [
            holding
            for holding in self._holdings.values()
            if holding.ready and holding.offload is None and holding.restore is None
        ]
        candidates.sort(key=lambda holding: (holding.worth, holding.used))
        return candidates

    def _evict(self, newcomer: Holding, blocks: int) -> tuple[Eviction, ...]:
        """Make room for `blocks` more host blocks of `newcomer`, as far as others' are worth no more."""
        evictions: list[Eviction] = []
        for holding in self._evictable():
            if blocks == 0 or holding.worth > newcomer.worth:
                break
            if holding is newcomer:
                continue
            taken = min(blocks, holding.ready)
            holding.ready -= taken
            self.free_host += taken
            self.evicted += taken
            blocks -= taken
            evictions.append(Eviction(holding.request_id, taken))
        return tuple(evictions)


def _offloading(holding: Holding) -> int:
    return holding.offload.blocks if holding.offload is not None else 0


def _refusal(holding: Holding, what: str) -> LedgerError:
    return LedgerError(
        f"request {holding.request_id!r} {what} ({holding.device} device blocks, {holding.complete} complete, "
        f"{holding.ready} on the host)"
    )


def _check_rows(holding: Holding) -> None:
    arriving = holding.restore.blocks if holding.restore is not None else 0
    if not 0 <= holding.complete <= holding.device - arriving or holding.ready < 0:
        raise _refusal(holding, f"has rows that cannot be, {arriving} blocks being restored")
    if holding.draining not in (0, _offloading(holding)):
        raise _refusal(holding, f"drains {holding.draining} blocks and offloads {_offloading(holding)}")
    copy = holding.offload
    if copy is not None and not holding.draining and copy.first + copy.blocks > holding.complete:
        raise _refusal(holding, f"offloads blocks up to {copy.first + copy.blocks} that are not complete")
    copy = holding.restore
    if copy is not None and copy.first + copy.blocks > holding.ready:
        raise _refusal(holding, f"restores blocks up to {copy.first + copy.blocks} that the host does not have")
