"""Copy times, worked out by hand and against published figures."""

import pytest

from proserve_core.blocks import KV_LAYOUTS, TRANSFERS, CopyCosts, Direction, LinkModel, TransferModel

H100 = TRANSFERS["NVIDIA H100 SXM 80 GB"]
LLAMA_BLOCK = KV_LAYOUTS["meta-llama/Llama-3.1-8B"].block_bytes(16)


def test_calls_and_bytes_add_up() -> None:
    link = LinkModel(call_s=0.001, byte_s=0.01)
    model = TransferModel(offload=link, restore=LinkModel(call_s=0.002, byte_s=0.02), both_busy=1.5)
    assert model.costs(Direction.OFFLOAD, block_bytes=3) == CopyCosts(start_s=0.001, block_s=0.03)
    restore = model.costs(Direction.RESTORE, block_bytes=3, calls_per_block=10, both_busy=True)
    assert restore.start_s == pytest.approx(0.003)
    assert restore.block_s == pytest.approx(1.5 * (10 * 0.002 + 3 * 0.02))


def test_no_blocks_take_no_time() -> None:
    assert CopyCosts(start_s=1.0, block_s=1.0).copy_s(0) == 0.0


def test_blocks_within_a_budget_fill_it() -> None:
    costs = CopyCosts(start_s=0.5, block_s=0.2)
    assert costs.blocks_within(0.4) == 0
    assert costs.blocks_within(1.2) == 3
    assert costs.copy_s(3) <= 1.2 < costs.copy_s(4)


def test_context_of_4096_tokens_takes_as_long_as_published_on_the_h100() -> None:
    costs = H100.costs(Direction.RESTORE, block_bytes=LLAMA_BLOCK)
    assert costs.block_s == pytest.approx(42e-6, rel=0.01)
    assert costs.copy_s(256) == pytest.approx(10.7e-3, rel=0.01)


def test_both_directions_share_the_published_bandwidth() -> None:
    costs = H100.costs(Direction.RESTORE, block_bytes=LLAMA_BLOCK, both_busy=True)
    assert 2 * LLAMA_BLOCK / costs.block_s == pytest.approx(83.4e9, rel=0.01)


def test_small_calls_make_copies_slow() -> None:
    """4096 calls of 32 KB took 40.7 ms on an MI300X: 3.3 GB/s of a link that reaches 24 and more."""
    link = LinkModel(call_s=9e-6, byte_s=1 / 50e9)
    assert link.copy_s(4096 * 32 * 1024, 4096) == pytest.approx(40.7e-3, rel=0.1)
