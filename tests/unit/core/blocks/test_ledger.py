"""The ledger: what each transition does, and what it refuses."""

import math

import pytest

from ledger_builders import begin_offload, evicted, on_host, preempted, resident
from proserve_core.blocks import BlockLedger, Direction, LedgerError


def test_growth_takes_free_blocks_and_the_end_gives_them_back() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    resident(ledger, "a", 4, complete=3)
    assert ledger.free_device == 6
    assert ledger.free("a") == 4
    assert ledger.free_device == 10
    ledger.check()


def test_an_offloaded_block_is_on_the_host_and_stays_on_the_device() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    resident(ledger, "a", 5, complete=4)
    copy = begin_offload(ledger, "a", 3)
    assert (copy.direction, copy.first, copy.blocks) == (Direction.OFFLOAD, 0, 3)
    assert ledger.holding("a").uncopied == 1
    assert ledger.free_host == 7
    assert ledger.finish_offload(copy) == 0
    assert ledger.holding("a").ready == 3
    assert ledger.free_device == 5
    ledger.check()


def test_blocks_under_way_at_preemption_are_released_when_the_copy_ends() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    resident(ledger, "a", 8)
    copy = begin_offload(ledger, "a", 3)
    assert ledger.preempt("a") == 5
    assert (ledger.free_device, ledger.draining) == (7, 3)
    ledger.check()
    assert ledger.finish_offload(copy) == 3
    assert (ledger.free_device, ledger.draining) == (10, 0)
    assert ledger.holding("a").restorable == 3
    ledger.check()


def test_a_failed_offload_releases_both_sides() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    resident(ledger, "a", 8)
    copy = begin_offload(ledger, "a", 3)
    ledger.preempt("a")
    assert ledger.fail_offload(copy) == 3
    assert (ledger.free_device, ledger.free_host) == (10, 10)
    assert ledger.holding("a").restorable == 0
    ledger.check()


def test_a_preempted_request_is_restored_in_part_and_grows_again() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    preempted(ledger, "a", host=6)
    copy = ledger.start_restore("a", 4)
    assert ledger.free_device == 6
    ledger.grow("a", 3)
    ledger.finish_restore(copy)
    ledger.complete("a", 7)
    holding = ledger.holding("a")
    assert (holding.device, holding.complete, holding.ready, holding.uncopied) == (7, 7, 6, 1)
    ledger.check()


def test_a_restore_goes_on_behind_what_is_complete() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    preempted(ledger, "a", host=6)
    ledger.finish_restore(ledger.start_restore("a", 2))
    copy = ledger.start_restore("a", 4)
    assert copy.first == 2
    ledger.finish_restore(copy)
    assert ledger.holding("a").complete == 6


def test_a_failed_restore_leaves_only_host_blocks_that_are_to_be_trusted() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    preempted(ledger, "a", host=6)
    ledger.finish_restore(ledger.start_restore("a", 2))
    copy = ledger.start_restore("a", 3)
    assert ledger.fail_restore(copy) == 3
    holding = ledger.holding("a")
    assert (holding.device, holding.ready, holding.restorable) == (2, 2, 0)
    assert ledger.free_host == 8
    ledger.check()


def test_an_offload_that_ends_after_the_blocks_before_it_were_lost_is_dropped() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    resident(ledger, "a", 6)
    on_host(ledger, "a", 2)
    late = begin_offload(ledger, "a", 4)
    ledger.preempt("a")
    ledger.fail_restore(ledger.start_restore("a", 2))
    ledger.finish_offload(late)
    assert ledger.holding("a").ready == 0
    assert (ledger.free_device, ledger.free_host) == (10, 10)
    ledger.check()


def test_a_second_preemption_leaves_the_first_ones_copy_alone() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    resident(ledger, "a", 3)
    copy = begin_offload(ledger, "a", 3)
    ledger.preempt("a")
    ledger.grow("a", 4)
    assert ledger.preempt("a") == 4
    assert ledger.draining == 3
    assert ledger.finish_offload(copy) == 3
    ledger.check()


def test_an_aborted_request_keeps_only_what_its_copies_need() -> None:
    ledger = BlockLedger(device_blocks=20, host_blocks=10)
    preempted(ledger, "a", host=6)
    copy = ledger.start_restore("a", 2)
    ledger.grow("a", 5)
    assert ledger.abort("a") == 5
    assert ledger.free_device == 18
    ledger.check()
    ledger.add("a")  # the name is free at once
    assert ledger.finish_restore(copy) == 2
    assert (ledger.free_device, ledger.free_host) == (20, 10)
    assert ledger.holding("a").ready == 0
    ledger.check()


def test_a_request_that_ends_while_it_is_offloaded_leaves_nothing_behind() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    resident(ledger, "a", 6)
    on_host(ledger, "a", 2)
    copy = begin_offload(ledger, "a", 3)
    assert ledger.free("a") == 3
    ledger.check()
    assert ledger.finish_offload(copy) == 3
    assert (ledger.free_device, ledger.free_host) == (10, 10)
    ledger.check()


def test_a_full_host_evicts_the_end_of_the_row_that_is_worth_least() -> None:
    ledger = BlockLedger(device_blocks=100, host_blocks=10)
    preempted(ledger, "heavy", host=4, worth=8.0)
    preempted(ledger, "light", host=6, worth=1.0)
    resident(ledger, "new", 5, worth=2.0)
    assert evicted(ledger, "new", 5) == [("light", 5)]
    assert ledger.holding("new").offloading == 5
    assert (ledger.holding("heavy").ready, ledger.holding("light").ready) == (4, 1)
    assert ledger.evicted == 5
    ledger.check()


def test_equals_are_evicted_by_last_use() -> None:
    ledger = BlockLedger(device_blocks=100, host_blocks=10)
    for name in ("first", "second"):
        preempted(ledger, name, host=5)
    ledger.finish_restore(ledger.start_restore("first", 1))
    resident(ledger, "new", 3)
    assert evicted(ledger, "new", 3) == [("second", 3)]


def test_nobody_is_evicted_for_less() -> None:
    ledger = BlockLedger(device_blocks=100, host_blocks=10)
    preempted(ledger, "heavy", host=8, worth=8.0)
    resident(ledger, "new", 5, worth=2.0)
    copy, evictions = ledger.start_offload("new", 5)
    assert copy is not None
    assert copy.blocks == 2
    assert evictions == ()
    ledger.finish_offload(copy)
    assert ledger.start_offload("new", 3) == (None, ())
    ledger.check()


def test_what_is_about_to_be_restored_is_kept() -> None:
    ledger = BlockLedger(device_blocks=100, host_blocks=10)
    preempted(ledger, "back", host=10, worth=1.0)
    ledger.set_worth("back", math.inf)
    resident(ledger, "new", 5, worth=9.0)
    assert ledger.start_offload("new", 5) == (None, ())


def test_who_is_evicted_next_is_known_once_the_host_is_full() -> None:
    ledger = BlockLedger(device_blocks=100, host_blocks=10)
    preempted(ledger, "heavy", host=5, worth=8.0)
    assert ledger.next_evicted() is None
    preempted(ledger, "light", host=5, worth=1.0)
    assert ledger.next_evicted() is ledger.holding("light")


def test_blocks_that_are_being_copied_are_not_evicted() -> None:
    ledger = BlockLedger(device_blocks=100, host_blocks=10)
    preempted(ledger, "restoring", host=5)
    ledger.start_restore("restoring", 2)
    resident(ledger, "offloading", 5)
    begin_offload(ledger, "offloading", 5)
    resident(ledger, "new", 5, worth=9.0)
    assert ledger.start_offload("new", 5) == (None, ())
    ledger.check()


def test_an_engine_without_host_blocks_never_copies() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=0)
    resident(ledger, "a", 5)
    assert ledger.start_offload("a", 5) == (None, ())


def _offload_twice(ledger: BlockLedger) -> None:
    begin_offload(ledger, "a", 1)
    begin_offload(ledger, "a", 1)


def _restore_twice(ledger: BlockLedger) -> None:
    ledger.start_restore("gone", 1)
    ledger.start_restore("gone", 1)


def _end_twice(ledger: BlockLedger) -> None:
    copy = begin_offload(ledger, "a", 1)
    ledger.finish_offload(copy)
    ledger.finish_offload(copy)


def _restore_then(ledger: BlockLedger, action: str, *args: int) -> None:
    ledger.start_restore("gone", 1)
    getattr(ledger, action)("gone", *args)


REFUSED = {
    "'a' is in the ledger already": lambda ledger: ledger.add("a"),
    "'x' is not in the ledger": lambda ledger: ledger.grow("x", 1),
    "'a' takes 95 device blocks, 94 are free": lambda ledger: ledger.grow("a", 95),
    "'a' takes -1 device blocks": lambda ledger: ledger.grow("a", -1),
    "'a' completes 7 blocks, possible are 5 to 6": lambda ledger: ledger.complete("a", 7),
    "'a' completes 4 blocks, possible are 5 to 6": lambda ledger: ledger.complete("a", 4),
    "'gone' completes 1 blocks, possible are 0 to 0": lambda ledger: _restore_then(ledger, "complete", 1),
    "'a' offloads 6 blocks, 5 are complete and not copied": lambda ledger: ledger.start_offload("a", 6),
    "'a' offloads 1 blocks while 1 are being offloaded": _offload_twice,
    "'gone' is preempted without device blocks": lambda ledger: ledger.preempt("gone"),
    "'gone' is preempted while 1 blocks are being restored": lambda ledger: _restore_then(ledger, "preempt"),
    "'gone' restores 4 blocks, the host has 3": lambda ledger: ledger.start_restore("gone", 4),
    "'gone' restores 1 blocks while 1 are being restored": _restore_twice,
    "'a' restores 1 blocks behind 5 complete ones of 6": lambda ledger: ledger.start_restore("a", 1),
    "'gone' is done while 1 blocks are being restored: abort it": lambda ledger: _restore_then(ledger, "free"),
    "'a': copy 2 ends as offload of 1 blocks, but no such copy": _end_twice,
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_what_cannot_be_and_says_why(message: str) -> None:
    ledger = BlockLedger(device_blocks=100, host_blocks=10)
    preempted(ledger, "gone", host=3)
    resident(ledger, "a", 6, complete=5)
    with pytest.raises(LedgerError) as refusal:
        REFUSED[message](ledger)
    assert message in str(refusal.value)
    ledger.check()


def test_a_restore_needs_free_device_blocks() -> None:
    ledger = BlockLedger(device_blocks=4, host_blocks=10)
    preempted(ledger, "a", host=4)
    resident(ledger, "b", 2)
    with pytest.raises(LedgerError, match="'a' restores 3 blocks, 2 device blocks are free"):
        ledger.start_restore("a", 3)


def test_a_copy_ends_in_its_own_direction() -> None:
    ledger = BlockLedger(device_blocks=4, host_blocks=10)
    resident(ledger, "a", 4)
    copy = begin_offload(ledger, "a", 4)
    with pytest.raises(LedgerError, match="ends as restore"):
        ledger.finish_restore(copy)


def test_check_finds_what_does_not_add_up() -> None:
    ledger = BlockLedger(device_blocks=4, host_blocks=10)
    ledger.free_device -= 1
    with pytest.raises(LedgerError, match="0 device blocks held and 3 free are not 4"):
        ledger.check()
