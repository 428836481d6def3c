"""The ledger: host blocks that serve other requests than those they were copied for."""

import pytest

from ledger_builders import begin_offload, evicted, preempted, resident
from proserve_core.blocks import BlockLedger, Holding, LedgerError


def kept(ledger: BlockLedger, name: str, *, host: int) -> Holding:
    """A request that is done and left `host` host blocks to others."""
    preempted(ledger, name, host=host)
    holding = ledger.holding(name)
    ledger.retire(name)
    return holding


def test_what_a_finished_request_leaves_on_the_host_serves_others() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    left = kept(ledger, "done", host=4)
    assert (ledger.free_host, ledger.kept, ledger.room) == (6, 4, 10)
    for name in ("b", "c"):
        ledger.add(name)
    copies = [ledger.start_restore(name, 3, lender=left) for name in ("b", "c")]
    assert left.readers == 2
    ledger.check()
    for copy in copies:
        ledger.finish_restore(copy)
    assert (ledger.holding("b").complete, ledger.holding("b").ready, left.ready) == (3, 0, 4)
    ledger.check()


def test_a_waiting_requests_blocks_serve_others_and_stay_its_own() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    preempted(ledger, "a", host=4)
    ledger.add("b")
    copy = ledger.start_restore("b", 4, lender=ledger.holding("a"))
    ledger.finish_restore(ledger.start_restore("a", 4))
    ledger.finish_restore(copy)
    assert (ledger.holding("a").complete, ledger.holding("b").complete) == (4, 4)
    ledger.check()


def test_kept_blocks_are_the_first_to_go_the_least_recently_used_of_them_first() -> None:
    ledger = BlockLedger(device_blocks=100, host_blocks=10)
    preempted(ledger, "hopeless", host=2, worth=0.0)
    first, _ = kept(ledger, "first", host=4), kept(ledger, "second", host=4)
    ledger.add("reader")
    ledger.finish_restore(ledger.start_restore("reader", 1, lender=first))
    resident(ledger, "new", 9, worth=1.0)
    assert ledger.next_evicted() is None
    assert evicted(ledger, "new", 9) == [("second", 4), ("first", 4), ("hopeless", 1)]
    assert ledger.kept == 0
    ledger.check()


def test_blocks_that_others_read_are_not_evicted() -> None:
    ledger = BlockLedger(device_blocks=100, host_blocks=10)
    left = kept(ledger, "done", host=10)
    ledger.add("reader")
    ledger.start_restore("reader", 1, lender=left)
    resident(ledger, "new", 5, worth=9.0)
    assert ledger.start_offload("new", 5) == (None, ())


def test_blocks_of_an_aborted_request_are_free_when_nobody_reads_them_any_more() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    preempted(ledger, "a", host=4)
    ledger.add("b")
    copy = ledger.start_restore("b", 2, lender=ledger.holding("a"))
    ledger.abort("a")
    assert ledger.free_host == 6
    ledger.check()
    ledger.finish_restore(copy)
    assert ledger.free_host == 10
    ledger.check()


def test_damage_that_one_reader_finds_is_used_by_nobody_and_free_when_the_last_one_is_done() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    preempted(ledger, "a", host=4)
    ledger.add("b")
    ledger.add("c")
    found = ledger.start_restore("b", 3, lender=ledger.holding("a"))
    other = ledger.start_restore("c", 2, lender=ledger.holding("a"))
    assert ledger.fail_restore(found) == 3
    assert (ledger.holding("a").restorable, ledger.free_host) == (0, 6)
    ledger.check()
    ledger.finish_restore(other)
    assert (ledger.holding("a").ready, ledger.free_host) == (0, 10)
    ledger.check()


def test_a_copy_that_ends_after_its_request_joins_what_the_request_left() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    resident(ledger, "a", 5)
    holding, copy = ledger.holding("a"), begin_offload(ledger, "a", 5)
    assert ledger.retire("a") == 0
    ledger.check()
    assert ledger.finish_offload(copy) == 5
    assert (holding.usable, ledger.kept) == (5, 5)
    ledger.forget_kept()
    assert (ledger.free_device, ledger.free_host) == (10, 10)
    ledger.check()


def test_what_is_not_kept_any_more_is_free_once_it_is_read() -> None:
    ledger = BlockLedger(device_blocks=10, host_blocks=10)
    left = kept(ledger, "done", host=4)
    ledger.add("b")
    copy = ledger.start_restore("b", 4, lender=left)
    ledger.forget_kept()
    ledger.add("c")
    with pytest.raises(LedgerError, match="the host has 0 it could use"):
        ledger.start_restore("c", 1, lender=left)
    assert ledger.free_host == 6
    ledger.finish_restore(copy)
    assert ledger.free_host == 10
    ledger.check()
