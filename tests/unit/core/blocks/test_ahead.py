"""Which residents' blocks are copied ahead."""

import pytest

from proserve_core.blocks import CopyCosts
from proserve_core.blocks.ahead import CopyAhead, Resident
from proserve_core.latency import LatencyModel

LATENCY = LatencyModel(
    host_s=0.0, floor_s=0.0, linear_base_s=0.0, linear_token_s=1e-4, attention_s=0.0, context_s=0.0, sequence_s=0.0
)
LINK = CopyCosts(start_s=1e-5, block_s=4e-5)


def resident(name: str, *, uncopied: int = 20, copying: bool = False) -> Resident:
    return Resident(
        request_id=name, blocks=20, uncopied=uncopied, copying=copying, context=320, pending=1, chunk=1, emitted=200,
        most_output=1000,
    )  # fmt: skip


def watching(blocks_per_step: int) -> CopyAhead:
    """After a second of steps of 10 ms in each of which so many blocks more are in use."""
    ahead = CopyAhead(16)
    for step in range(100):
        ahead.step(now_s=0.01 * step, used_blocks=blocks_per_step * step, idle=False)
    return ahead


def plan(ahead: CopyAhead, *residents: Resident, free_blocks: int = 10, next_evicted: str | None = None) -> list[str]:
    offloads = ahead.plan(
        list(residents), free_blocks=free_blocks, latency=LATENCY, offload=LINK, restore=LINK, under_way=0,
        next_evicted=next_evicted,
    )  # fmt: skip
    return [offload.request_id for offload in offloads]


def test_who_will_be_preempted_next_is_copied_first() -> None:
    assert plan(watching(1), resident("first"), resident("last"))[0] == "last"


def test_nobody_is_copied_while_blocks_are_plenty() -> None:
    assert plan(watching(0), resident("first"), resident("last"), free_blocks=1000) == []


def test_copies_so_quick_that_a_step_may_wait_for_them_are_not_made_ahead() -> None:
    quick = CopyCosts(start_s=0.0, block_s=1e-9)
    offloads = watching(1).plan(
        [resident("r")], free_blocks=10, latency=LATENCY, offload=quick, restore=LINK, under_way=0, next_evicted=None
    )
    assert offloads == ()


def test_a_request_has_one_copy_under_way_at_most() -> None:
    assert plan(watching(1), resident("copying", copying=True), resident("done", uncopied=0)) == []


def test_copies_hide_behind_the_step() -> None:
    ahead = watching(1)
    offloads = ahead.plan(
        [resident("r", uncopied=10_000)], free_blocks=10, latency=LATENCY, offload=LINK, restore=LINK, under_way=100,
        next_evicted=None,
    )  # fmt: skip
    assert LINK.copy_s(offloads[0].blocks) <= ahead.step_s - LINK.copy_s(100)


def test_nothing_is_copied_for_the_price_of_blocks_that_are_needed_as_much() -> None:
    assert plan(watching(1), resident("r"), free_blocks=2000, next_evicted="preempted") == []


def test_an_idle_moment_is_no_step() -> None:
    ahead = watching(1)
    before = ahead.step_s
    ahead.step(now_s=1.0, used_blocks=0, idle=True)
    ahead.step(now_s=99.0, used_blocks=0, idle=False)
    assert ahead.step_s == pytest.approx(before)
