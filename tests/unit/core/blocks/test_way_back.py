"""What of a resident would come back."""

import pytest

from proserve_core.blocks import BlockLedger, CopyCosts
from proserve_core.blocks.way_back import WayBack, flush_pays, way_back
from proserve_core.latency import LatencyModel

LATENCY = LatencyModel(
    host_s=0.01, floor_s=0.0, linear_base_s=0.0, linear_token_s=1e-4, attention_s=0.0, context_s=0.0, sequence_s=0.0
)


def ledger_with(*, complete: int, on_host: int, arriving: int = 0) -> BlockLedger:
    """Of one resident `r`."""
    ledger = BlockLedger(device_blocks=20, host_blocks=20)
    ledger.add("r")
    ledger.grow("r", complete + 1)
    ledger.complete("r", complete)
    for blocks, arrives in ((on_host, True), (arriving, False)):
        if blocks:
            copy, _ = ledger.start_offload("r", blocks)
            assert copy is not None
            if arrives:
                ledger.finish_offload(copy)
    return ledger


@pytest.mark.parametrize(
    ("arriving", "flushes", "expected"),
    [
        (0, False, WayBack(3, 0)),
        (0, True, WayBack(8, 5)),
        (2, False, WayBack(5, 0)),
        # Nothing is flushed behind a copy that is under way.
        (2, True, WayBack(5, 0)),
    ],
)
def test_what_comes_back_is_on_the_host_on_its_way_there_or_flushed(
    arriving: int, flushes: bool, expected: WayBack
) -> None:
    ledger = ledger_with(complete=8, on_host=3, arriving=arriving)
    assert way_back(ledger.holding("r"), flushes=flushes) == expected


def test_no_more_comes_back_than_there_is_to_lose() -> None:
    ledger = ledger_with(complete=4, on_host=4)
    ledger.preempt("r")
    ledger.finish_restore(ledger.start_restore("r", 2))
    assert way_back(ledger.holding("r"), flushes=True) == WayBack(2, 0)


@pytest.mark.parametrize(("block_s", "pays"), [(0.7e-3, True), (0.9e-3, False)])
def test_a_flush_pays_if_both_ways_take_less_than_computing(block_s: float, pays: bool) -> None:
    costs = CopyCosts(start_s=1.0, block_s=block_s)
    assert flush_pays(latency=LATENCY, block_size=16, offload=costs, restore=costs) == pays
