"""The ledger with ids: which host block each device block goes to, and who may have it next."""

from collections import Counter
from collections.abc import Sequence

import pytest

from proserve_core.blocks import Direction
from proserve_engine.kv.copies import Copies
from proserve_engine.kv.messages import CopyJob, CopyReport, CopyResult

INTACT = CopyResult(intact=True, copy_s=0.001)
FAILED = CopyResult(intact=False, copy_s=0.001)


class Pool:
    """References to device blocks."""

    def __init__(self) -> None:
        self.pins: Counter[int] = Counter()

    def pin(self, blocks: Sequence[int]) -> None:
        self.pins.update(blocks)

    def unpin(self, blocks: Sequence[int]) -> None:
        self.pins.subtract(blocks)
        assert min(self.pins.values()) >= 0

    @property
    def pinned(self) -> set[int]:
        return {block for block, count in self.pins.items() if count}


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def copies(pool: Pool) -> Copies:
    return Copies(device_rows=100, host_blocks=4, pool=pool)


def offload(copies: Copies, name: str, device: Sequence[int], *, worth: float = 1.0) -> CopyJob:
    """Begin to copy a new resident's blocks."""
    copies.add(name)
    copies.complete(name, len(device))
    copies.ledger.set_worth(name, worth)
    job = copies.offload(name, device, blocks=len(device), pin=True)
    assert job is not None
    return job


def end(copies: Copies, job: CopyJob, result: CopyResult = INTACT) -> None:
    copies.report(CopyReport(results={job.number: result}))
    copies.check()


def test_blocks_come_back_from_where_they_went(copies: Copies) -> None:
    job = offload(copies, "r", (10, 11, 12))
    end(copies, job)
    copies.preempt("r")
    back = copies.restore("r", (30, 31, 32), behind=1, blocks=2)
    assert (back.device, back.host) == ((31, 32), job.host[1:])


def test_blocks_of_a_preempted_request_are_held_until_their_copy_ends(copies: Copies, pool: Pool) -> None:
    job = offload(copies, "r", (10, 11))
    copies.preempt("r")
    assert copies.draining
    assert pool.pinned == {10, 11}
    end(copies, job)
    assert pool.pinned == set()
    assert copies.holding("r").ready == 2


def test_blocks_of_a_request_that_ended_are_held_until_their_copy_ends(copies: Copies, pool: Pool) -> None:
    job = offload(copies, "r", (10, 11))
    copies.end("r")
    assert pool.pinned == {10, 11}
    copies.check()
    end(copies, job)
    assert pool.pinned == set()
    assert copies.ledger.free_host == 4


def test_who_loses_host_blocks_is_known(copies: Copies) -> None:
    end(copies, offload(copies, "light", (10, 11, 12), worth=1.0))
    assert copies.take_shortened() == set()
    offload(copies, "heavy", (20, 21), worth=5.0)
    assert copies.take_shortened() == {"light"}
    assert copies.take_shortened() == set()


@pytest.mark.parametrize(("pin", "beside"), [(True, True), (False, False)])
@pytest.mark.parametrize("first", ["to the host", "back"])
def test_a_restore_shares_the_link_with_copies_for_which_nobody_waits(
    copies: Copies, first: str, pin: bool, beside: bool
) -> None:
    end(copies, offload(copies, "back", (10,)))
    copies.preempt("back")
    copies.add("leaving")
    copies.complete("leaving", 1)
    if first == "back":
        restore = copies.restore("back", (30,), behind=0, blocks=1)
    copies.offload("leaving", (20,), blocks=1, pin=pin)
    assert copies.sending == pin
    if first == "to the host":
        restore = copies.restore("back", (30,), behind=0, blocks=1)
    (ended,) = copies.report(CopyReport(results={restore.number: INTACT}))
    assert ended.both_busy == beside


def test_a_full_host_gives_up_the_end_of_the_row_that_is_worth_least(copies: Copies) -> None:
    light = offload(copies, "light", (10, 11, 12), worth=1.0)
    end(copies, light)
    heavy = offload(copies, "heavy", (20, 21), worth=5.0)
    assert copies.holding("light").ready == 2
    assert light.host[2] in heavy.host
    end(copies, heavy)
    copies.add("lightest")
    copies.complete("lightest", 1)
    assert copies.offload("lightest", (30,), blocks=1, pin=True) is None


def test_a_failed_copy_leaves_nothing_on_the_host(copies: Copies, pool: Pool) -> None:
    end(copies, offload(copies, "r", (10, 11)), FAILED)
    assert copies.holding("r").uncopied == 2
    assert copies.ledger.free_host == 4
    assert pool.pinned == set()


def test_after_a_failed_restore_the_row_is_not_trusted_from_there_on(copies: Copies) -> None:
    end(copies, offload(copies, "r", (10, 11, 12)))
    copies.preempt("r")
    end(copies, copies.restore("r", (30, 31, 32), behind=1, blocks=2), FAILED)
    assert copies.holding("r").ready == 1


def test_a_request_preempted_while_its_blocks_come_back_starts_anew(copies: Copies) -> None:
    end(copies, offload(copies, "r", (10, 11)))
    copies.preempt("r")
    job = copies.restore("r", (30, 31), behind=0, blocks=2)
    copies.preempt("r")
    assert copies.holding("r").ready == 0
    copies.check()
    end(copies, job)
    assert (copies.holding("r").complete, copies.ledger.free_host) == (0, 4)


def test_a_reset_lets_go_of_the_device_at_once_and_of_the_host_when_copies_end(copies: Copies, pool: Pool) -> None:
    job = offload(copies, "r", (10, 11))
    copies.reset()
    assert pool.pinned == set()
    assert copies.ledger.free_host == 2
    end(copies, job)
    assert copies.ledger.free_host == 4
    assert copies.holding("r").ready == 0


def test_a_copy_has_ended_when_all_workers_say_so_and_failed_if_one_does(pool: Pool) -> None:
    copies = Copies(device_rows=100, host_blocks=4, pool=pool, workers=2)
    job = offload(copies, "r", (10,))
    assert copies.report(CopyReport(results={job.number: INTACT})) == []
    (ended,) = copies.report(CopyReport(results={job.number: FAILED}))
    assert (ended.intact, ended.direction) == (False, Direction.OFFLOAD)


def test_reports_of_workers_add_up() -> None:
    one = CopyReport(results={1: INTACT, 2: INTACT}, waited_s=0.2)
    other = CopyReport(results={1: FAILED}, waited_s=0.1, flushed_s=0.3, refused="no memory")
    both = one + other
    assert both.results[1] == CopyResult(intact=False, copy_s=0.001, workers=2)
    assert both.results[2] == INTACT
    assert (both.waited_s, both.flushed_s, both.refused) == (0.2, 0.3, "no memory")


def shared(copies: Copies, name: str, device: Sequence[int], hashes: str) -> CopyJob:
    """Begin to copy a new resident's blocks, which others may use."""
    copies.add(name)
    copies.complete(name, len(device))
    job = copies.offload(name, device, blocks=len(device), pin=True, hashes=hashes)
    assert job is not None
    return job


def test_a_request_that_begins_alike_starts_from_anothers_blocks(copies: Copies) -> None:
    job = shared(copies, "a", (10, 11, 12), "xyz")
    copies.add("b")
    assert copies.source("b", "xy?") == (copies.holding("b"), 0)
    end(copies, job)
    source = copies.source("b", "xy?")
    assert source == (copies.holding("a"), 2)
    back = copies.restore("b", (30, 31), behind=0, blocks=2, row=source.row)
    assert back.host == job.host[:2]
    end(copies, back)
    assert (copies.holding("b").complete, copies.holding("a").ready) == (2, 3)
    assert copies.source("b") == (copies.holding("b"), 0)


def test_its_own_blocks_come_first_unless_another_has_more(copies: Copies) -> None:
    end(copies, shared(copies, "a", (10, 11), "xy"))
    end(copies, shared(copies, "b", (20,), "x"))
    assert copies.source("b", "x") == (copies.holding("b"), 1)
    assert copies.source("b", "xyz") == (copies.holding("a"), 2)


def test_blocks_of_a_finished_request_are_found_until_somebody_needs_the_room(copies: Copies) -> None:
    job = shared(copies, "a", (10, 11, 12), "xyz")
    copies.end("a", keep=True)
    end(copies, job)
    copies.add("b")
    assert copies.source("b", "xyz").blocks == 3
    end(copies, offload(copies, "c", (20, 21), worth=0.0))
    assert copies.source("b", "xyz").blocks == 2
    copies.reset()
    copies.check()
    assert copies.source("b", "xyz").blocks == 0
    assert copies.ledger.free_host == 4


def test_damage_found_by_one_request_is_not_used_by_another(copies: Copies) -> None:
    end(copies, shared(copies, "a", (10, 11, 12), "xyz"))
    copies.add("b")
    copies.add("c")
    first = copies.restore("b", (30, 31), behind=1, blocks=1, row=copies.holding("a"))
    second = copies.restore("c", (40, 41, 42), behind=0, blocks=3, row=copies.holding("a"))
    end(copies, first, FAILED)
    assert copies.source("b", "xyz").blocks == 1
    end(copies, second)
    assert (copies.holding("a").ready, copies.ledger.free_host) == (1, 3)


def test_blocks_without_hashes_are_nobody_elses(copies: Copies) -> None:
    end(copies, offload(copies, "a", (10, 11)))
    copies.add("b")
    assert copies.source("b", "xy").blocks == 0


def test_what_is_dropped_is_found_by_nobody_even_while_a_copy_goes_on(copies: Copies) -> None:
    end(copies, shared(copies, "a", (10, 11), "xy"))
    copies.complete("a", 3)
    job = copies.offload("a", (10, 11, 12), blocks=1, pin=True, hashes="xyz")
    assert job is not None
    copies.drop("a")
    copies.add("b")
    assert copies.source("b", "xyz").blocks == 0
    end(copies, job)
    assert copies.ledger.free_host == 4
