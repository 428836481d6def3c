"""Restore against recompute: by hand, and against trying every split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_builders import MILLISECOND_PER_TOKEN
from proserve_core.blocks import (
    KV_LAYOUTS,
    TRANSFERS,
    CopyCosts,
    Direction,
    Overlap,
    Reload,
    Restorable,
    ResumeModel,
    best_split,
)
from proserve_core.latency import LatencyModel, StepWork
from proserve_core.latency.calibrations import load_calibration

BLOCKING = Overlap(reload=Reload.BLOCKING)


def request(tokens: int, host_blocks: int, device_tokens: int = 0) -> Restorable:
    return Restorable(request_id="a", tokens=tokens, host_blocks=host_blocks, device_tokens=device_tokens)


def by_hand(start_s: float, block_s: float, overlap: Overlap) -> ResumeModel:
    """10 tokens per block, 10 ms per step, 1 ms per token."""
    return ResumeModel(
        block_size=10,
        costs=CopyCosts(start_s=start_s, block_s=block_s),
        latency=MILLISECOND_PER_TOKEN,
        overlap=overlap,
    )


def test_the_last_token_is_always_computed() -> None:
    assert request(40, 4).usable(10) == 3
    assert request(41, 4).usable(10) == 4
    assert request(41, 9).usable(10) == 4
    assert request(41, 9, device_tokens=30).usable(10) == 1
    assert request(0, 3).usable(10) == 0


def test_blocking_restores_what_is_quicker_to_copy_than_to_compute() -> None:
    # Copying a block takes 4 ms, computing it 10 ms.
    split = best_split(request(41, 3), model=by_hand(0.002, 0.004, BLOCKING))
    assert (split.blocks, split.tokens) == (3, 11)
    assert split.resume_s == pytest.approx(0.010 + 0.014 + 0.011)


def test_blocking_computes_all_when_copies_are_slower() -> None:
    split = best_split(request(41, 3), model=by_hand(0.002, 0.011, BLOCKING))
    assert (split.blocks, split.tokens) == (0, 41)
    assert split.resume_s == pytest.approx(0.051)


def test_pipelined_splits_where_copies_and_compute_take_equally_long() -> None:
    # 10 layers. With 2 of 4 blocks 22 ms are copied while 21 ms are computed: 22 + 2.1. With 1 or 3 it is 31 or 32.
    split = best_split(request(41, 4), model=by_hand(0.002, 0.010, Overlap(layers=10)))
    assert (split.blocks, split.tokens) == (2, 21)
    assert split.resume_s == pytest.approx(0.010 + 0.022 + 0.0021)


def test_below_the_knee_there_is_nothing_to_save() -> None:
    """30 tokens cost what one costs, so blocks that do not hide are not worth restoring."""
    latency = load_calibration("h100-llama-3.1-8b").latency
    split = best_split(
        request(65, 4),
        model=ResumeModel(block_size=16, costs=CopyCosts(start_s=0.0, block_s=0.01), latency=latency, overlap=BLOCKING),
    )
    assert split.blocks == 0


def test_added_time_is_what_the_step_takes_longer() -> None:
    base = StepWork(new_tokens=8, decode_context=800, sequences=8)
    split = best_split(request(41, 0), model=by_hand(0.0, 0.001, BLOCKING), base=base)
    assert split.added_s == pytest.approx(0.041)
    assert split.resume_s == pytest.approx(0.010 + 0.008 + 0.041)


def test_resume_at_4k_context_on_the_h100_is_five_times_faster_than_recompute() -> None:
    calibration = load_calibration("h100-llama-3.1-8b")
    layout = KV_LAYOUTS[calibration.model]
    costs = TRANSFERS[calibration.gpu].costs(Direction.RESTORE, block_bytes=layout.block_bytes(calibration.block_size))
    model = ResumeModel(
        block_size=calibration.block_size,
        costs=costs,
        latency=calibration.latency,
        overlap=Overlap(layers=layout.layers),
    )
    back, nothing = best_split(request(4097, 256), model=model), best_split(request(4097, 0), model=model)
    assert nothing.resume_s / back.resume_s >= 5


latencies = st.builds(
    LatencyModel,
    host_s=st.floats(0, 1e-2),
    floor_s=st.floats(0, 2e-2),
    linear_base_s=st.floats(0, 5e-3),
    linear_token_s=st.floats(0, 1e-3),
    attention_s=st.floats(0, 1e-6),
    context_s=st.floats(0, 1e-6),
    sequence_s=st.floats(0, 1e-4),
)
bases = st.builds(
    StepWork,
    new_tokens=st.integers(0, 300),
    attention=st.floats(0, 1e6),
    decode_context=st.integers(0, 10**5),
    sequences=st.integers(0, 64),
)
copy_costs = st.builds(CopyCosts, start_s=st.floats(0, 1e-2), block_s=st.floats(1e-6, 1e-2))
overlaps = st.builds(Overlap, reload=st.sampled_from(Reload), layers=st.integers(1, 80))


@settings(max_examples=50)
@given(
    tokens=st.integers(1, 900), host_blocks=st.integers(0, 60), device_blocks=st.integers(0, 5),
    costs=copy_costs, latency=latencies, overlap=overlaps, base=bases,
)  # fmt: skip
def test_is_the_best_of_all_splits(
    tokens: int,
    host_blocks: int,
    device_blocks: int,
    costs: CopyCosts,
    latency: LatencyModel,
    overlap: Overlap,
    base: StepWork,
) -> None:
    case = request(tokens + 16 * device_blocks, host_blocks, 16 * device_blocks)

    def resume_s(blocks: int) -> float:
        rest, attention = case.rest(blocks, 16)
        compute_s = latency.sums_s(
            base.new_tokens + rest, base.attention + attention, base.decode_context, base.sequences + 1
        )
        return latency.host_s + overlap.both_s(costs.copy_s(blocks), compute_s - latency.host_s)

    best = min(map(resume_s, range(case.usable(16) + 1)))
    found = best_split(case, model=ResumeModel(block_size=16, costs=costs, latency=latency, overlap=overlap), base=base)
    assert found.resume_s == pytest.approx(best, rel=1e-12)
    assert found.resume_s == pytest.approx(resume_s(found.blocks), rel=1e-12)
