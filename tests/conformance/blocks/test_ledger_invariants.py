"""Random sequences of transitions beside a model that knows every single block: none is lost, none has two owners.

The model moves block ids between sets; the ledger only counts. After each transition the counts must be the sizes of
the sets, and every block must be in exactly one set.
"""

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.blocks import BlockLedger, Copy, Direction, Holding

STEPS = 400
NAMES = ("a", "b", "c", "d", "e")
"""Few, so that one comes again while its last copies are under way."""


@dataclass(eq=False)
class Blocks:
    """What one request has, by block id, in the order of its row."""

    name: str
    holding: Holding
    """The ledger's view."""
    worth: float = 0.0
    used: int = 0
    device: list[int] = field(default_factory=list)
    complete: int = 0
    host: list[int] = field(default_factory=list)
    offload: Copy | None = None
    restore: Copy | None = None
    arriving: list[int] = field(default_factory=list)
    damaged_from: int | None = None

    @property
    def usable(self) -> int:
        return len(self.host) if self.damaged_from is None else min(self.damaged_from, len(self.host))


@dataclass(eq=False)
class Transfer:
    """A copy under way: the blocks that it alone owns, and those that it reads or writes of its request's."""

    copy: Copy
    blocks: Blocks
    row: Blocks
    """Whose host blocks it reads or writes."""
    device: list[int] = field(default_factory=list)
    """Device blocks that nobody else has any more."""
    reads: list[int] = field(default_factory=list)
    """Device blocks that it reads, in whoever's hands."""
    host: list[int] = field(default_factory=list)
    """Host blocks that it writes."""
    ended: bool = False


class Model:
    """An engine that does what can be done at random."""

    def __init__(self, *, device: int, host: int, rng: random.Random) -> None:
        self.ledger = BlockLedger(device_blocks=device, host_blocks=host)
        self.device, self.host = set(range(device)), set(range(host))
        self.free_device, self.free_host = sorted(self.device), sorted(self.host)
        self.requests: dict[str, Blocks] = {}
        self.kept: list[Blocks] = []
        """What requests that are done have left, the least recently used first."""
        self.transfers: list[Transfer] = []
        self.clock = 0
        self.rng = rng

    def act(self) -> None:
        actions = {self.arrive: 2.0}
        if self.transfers:
            actions[self.end_copy] = 4
        if self.requests:
            actions |= {self.grow: 4, self.compute: 6, self.offload: 8, self.preempt: 2, self.restore: 6}
            actions |= {self.leave: 1.5}
        if self.kept:
            actions[self.forget_kept] = 0.1
        self.rng.choices([*actions], [*actions.values()])[0]()

    def pick(self) -> tuple[str, Blocks]:
        name = self.rng.choice(sorted(self.requests))
        return name, self.requests[name]

    def take(self, free: list[int], count: int) -> list[int]:
        taken = free[:count]
        del free[:count]
        return taken

    def transfer_of(self, copy: Copy | None) -> Transfer:
        return next(transfer for transfer in self.transfers if transfer.copy is copy)

    def in_use(self, row: Blocks) -> bool:
        """Whether a copy under way needs the request's blocks."""
        return any(row in (transfer.blocks, transfer.row) for transfer in self.transfers)

    def read(self, row: Blocks) -> None:
        """Note that the row was read."""
        row.used = self.now()
        if row in self.kept:
            self.kept.remove(row)
            self.kept.append(row)

    def now(self) -> int:
        self.clock += 1
        return self.clock

    def arrive(self) -> None:
        free = [name for name in NAMES if name not in self.requests]
        if not free:
            return
        worth = self.rng.choice([0.0, 1.0, 8.0])
        self.ledger.add(free[0])
        self.ledger.set_worth(free[0], worth)
        self.requests[free[0]] = Blocks(name=free[0], holding=self.ledger.holding(free[0]), worth=worth)

    def grow(self) -> None:
        name, blocks = self.pick()
        count = self.rng.randint(0, min(8, len(self.free_device)))
        self.ledger.grow(name, count)
        blocks.device += self.take(self.free_device, count)

    def compute(self) -> None:
        name, blocks = self.pick()
        if blocks.restore is None:
            blocks.complete = self.rng.randint(blocks.complete, len(blocks.device))
            self.ledger.complete(name, blocks.complete)

    def offload(self) -> None:
        name, blocks = self.pick()
        uncopied = blocks.complete - len(blocks.host)
        if blocks.offload is not None or uncopied <= 0:
            return
        count = self.rng.randint(1, uncopied)
        lacking = count - len(self.free_host)
        others = sorted(
            (other for other in self.requests.values() if other is not blocks and other.worth <= blocks.worth),
            key=lambda other: (other.worth, other.used),
        )
        expected = []
        for other in self.kept + others:
            if lacking > 0 and other.host and not self.in_use(other):
                taken = min(lacking, len(other.host))
                self.cut(other, len(other.host) - taken)
                lacking -= taken
                expected.append((other.holding, taken))
        self.kept = [other for other in self.kept if other.host or self.in_use(other)]
        copy, evictions = self.ledger.start_offload(name, count)
        assert [(eviction.holding, eviction.blocks) for eviction in evictions] == expected
        room = min(count, len(self.free_host))
        if copy is None:
            assert room == 0
            return
        assert (copy.blocks, copy.first) == (room, len(blocks.host))
        reads = blocks.device[copy.first : copy.first + room]
        blocks.offload = copy
        host = self.take(self.free_host, room)
        self.transfers.append(Transfer(copy=copy, blocks=blocks, row=blocks, reads=reads, host=host))

    def cut(self, row: Blocks, length: int) -> None:
        """Free the row's host blocks behind the first `length`."""
        self.free_host += row.host[length:]
        del row.host[length:]

    def leave_device(self, blocks: Blocks) -> list[int]:
        """Device blocks that are free when the request leaves the device; the others go to its offload."""
        kept: list[int] = []
        if blocks.offload is not None:
            transfer = self.transfer_of(blocks.offload)
            kept = [block for block in blocks.device if block in transfer.reads]
            transfer.device += kept
        released = [block for block in blocks.device if block not in kept]
        blocks.device, blocks.complete = [], 0
        return released

    def preempt(self) -> None:
        name, blocks = self.pick()
        if not blocks.device or blocks.restore is not None:
            return
        released = self.leave_device(blocks)
        blocks.used = self.now()
        assert self.ledger.preempt(name) == len(released)
        self.free_device += released

    def restore(self) -> None:
        name, blocks = self.pick()
        lender = self.rng.choice([blocks, *self.requests.values(), *self.kept])
        most = min(lender.usable - blocks.complete, len(self.free_device))
        if blocks.restore is not None or len(blocks.device) > blocks.complete or most <= 0:
            return
        self.read(lender)
        count = self.rng.randint(1, most)
        blocks.restore = copy = self.ledger.start_restore(name, count, lender=lender.holding)
        blocks.arriving = self.take(self.free_device, copy.blocks)
        blocks.device += blocks.arriving
        self.transfers.append(Transfer(copy=copy, blocks=blocks, row=lender))

    def end_copy(self) -> None:
        transfer, fails = self.rng.choice(self.transfers), self.rng.random() < 0.3
        self.transfers.remove(transfer)
        copy, blocks = transfer.copy, transfer.blocks
        released = list(transfer.device)
        if copy.direction is Direction.OFFLOAD:
            blocks.offload = None
            if fails or copy.first != len(blocks.host):
                self.free_host += transfer.host
            else:
                blocks.host += transfer.host
                blocks.used = self.now()
            end = self.ledger.fail_offload if fails else self.ledger.finish_offload
        else:
            blocks.restore = None
            if fails:
                transfer.row.damaged_from = min(copy.first, transfer.row.usable)
                if not transfer.ended:
                    released += blocks.arriving
                    blocks.device = [block for block in blocks.device if block not in blocks.arriving]
            else:
                blocks.complete = copy.first + copy.blocks
                self.read(transfer.row)
            blocks.arriving = []
            end = self.ledger.fail_restore if fails else self.ledger.finish_restore
        self.settle(transfer.row)
        self.settle(blocks)
        assert end(copy) == len(released)
        self.free_device += released

    def settle(self, row: Blocks) -> None:
        """Free the host blocks that no copy needs any more."""
        read = any(each.row is row and each.copy.direction is Direction.RESTORE for each in self.transfers)
        if row.damaged_from is not None and not read:
            self.cut(row, row.usable)
            row.damaged_from = None
        gone = row not in self.requests.values() and row not in self.kept
        if gone and not self.in_use(row):
            self.cut(row, 0)
        if not row.host and not self.in_use(row) and row in self.kept:
            self.kept.remove(row)

    def leave(self) -> None:
        name, blocks = self.pick()
        end = self.rng.choice([self.ledger.abort, self.ledger.free, self.ledger.retire])
        if blocks.restore is not None and end == self.ledger.free:
            return
        stays = end == self.ledger.retire and blocks.restore is None and (blocks.usable or blocks.offload)
        del self.requests[name]
        if blocks.restore is not None:
            transfer = self.transfer_of(blocks.restore)
            transfer.device, transfer.ended = blocks.arriving, True
            blocks.device = [block for block in blocks.device if block not in blocks.arriving]
        if blocks.offload is not None:
            self.transfer_of(blocks.offload).ended = True
        released = self.leave_device(blocks)
        if stays:
            self.kept.append(blocks)
        self.settle(blocks)
        assert end(name) == len(released)
        self.free_device += released

    def forget_kept(self) -> None:
        left, self.kept = self.kept, []
        for row in left:
            self.settle(row)
        self.ledger.forget_kept()

    def every_block_has_one_owner(self) -> None:
        everyone = {id(blocks): blocks for blocks in self.requests.values()}
        everyone |= {id(blocks): blocks for each in self.transfers for blocks in (each.blocks, each.row)}
        everyone |= {id(blocks): blocks for blocks in self.kept}
        on_device = [*self.free_device]
        on_host = [*self.free_host]
        for blocks in everyone.values():
            on_device += blocks.device
            on_host += blocks.host
        for transfer in self.transfers:
            on_device += transfer.device
            on_host += transfer.host
        assert sorted(on_device) == sorted(self.device)
        assert sorted(on_host) == sorted(self.host)

    def no_copy_reads_or_writes_a_free_block(self) -> None:
        for transfer in self.transfers:
            assert not set(transfer.reads) & set(self.free_device)
            assert not set(transfer.host) & set(self.free_host)
            if transfer.copy.direction is Direction.RESTORE:
                assert not set(transfer.blocks.arriving) & set(self.free_device)
                assert not set(transfer.row.host) & set(self.free_host)
                assert len(transfer.row.host) >= transfer.copy.first + transfer.copy.blocks

    def the_ledger_counts_the_same(self) -> None:
        ledger = self.ledger
        ledger.check()
        assert ledger.free_device == len(self.free_device)
        assert ledger.free_host == len(self.free_host)
        assert ledger.kept == sum(len(row.host) for row in self.kept)
        for name, blocks in self.requests.items():
            holding = ledger.holding(name)
            assert holding is blocks.holding
            assert (holding.device, holding.complete, holding.ready) == (
                len(blocks.device),
                blocks.complete,
                len(blocks.host),
            )


@settings(max_examples=40)
@given(device=st.integers(10, 60), host=st.integers(0, 30), seed=st.integers(0, 2**32))
def test_the_ledger_counts_what_a_model_of_every_block_has(device: int, host: int, seed: int) -> None:
    model = Model(device=device, host=host, rng=random.Random(seed))
    for _ in range(STEPS):
        model.act()
        model.every_block_has_one_owner()
        model.no_copy_reads_or_writes_a_free_block()
        model.the_ledger_counts_the_same()
