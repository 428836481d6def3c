"""The fit follows the link, and nothing else."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.blocks import TRANSFERS, Direction, LinkModel, OnlineTransfer, TransferModel
from proserve_core.blocks.transfer_fit import LEAST_COPIES

PRESET = TRANSFERS["NVIDIA H100 SXM 80 GB"]
MIB = 2**20


def feed(
    online: OnlineTransfer,
    truth: LinkModel,
    copies: int,
    *,
    seed: int = 1,
    noise: float = 0.05,
    hiccups: float = 0.0,
    direction: Direction = Direction.RESTORE,
) -> None:
    rng = random.Random(seed)
    for _ in range(copies):
        calls = rng.choice([1, 1, 4, 32])
        size = rng.randint(1, 200) * MIB // 4
        factor = 50.0 if rng.random() < hiccups else rng.lognormvariate(0, noise)
        online.observe(direction, size=size, calls=calls, measured_s=truth.copy_s(size, calls) * factor)


def test_keeps_the_preset_until_it_has_seen_enough() -> None:
    online = OnlineTransfer(PRESET)
    truth = LinkModel(call_s=1e-4, byte_s=1e-10)
    feed(online, truth, LEAST_COPIES - 1)
    assert online.model is PRESET
    feed(online, truth, 1)
    assert online.model.restore != PRESET.restore
    assert online.model.offload == PRESET.offload


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0, 30.0])
def test_learns_both_terms_through_noise_and_hiccups(factor: float) -> None:
    truth = LinkModel(call_s=2e-4 * factor, byte_s=factor / 40e9)
    online = OnlineTransfer(PRESET)
    feed(online, truth, 400, hiccups=0.02)
    assert online.model.restore.call_s == pytest.approx(truth.call_s, rel=0.15)
    assert online.model.restore.byte_s == pytest.approx(truth.byte_s, rel=0.05)
    assert online.rejected > 0


def test_follows_a_link_that_becomes_slower() -> None:
    online = OnlineTransfer(PRESET)
    feed(online, PRESET.restore, 100)
    slower = LinkModel(call_s=3e-5, byte_s=1 / 12e9)
    feed(online, slower, 250, seed=2)
    assert online.model.restore.copy_s(64 * MIB, 1) == pytest.approx(slower.copy_s(64 * MIB, 1), rel=0.1)


def test_copies_of_one_size_leave_the_ratio_of_the_terms_to_the_preset() -> None:
    online = OnlineTransfer(PRESET)
    for _ in range(100):
        online.observe(Direction.RESTORE, size=2 * MIB, calls=1, measured_s=3 * PRESET.restore.copy_s(2 * MIB, 1))
    assert online.model.restore.call_s == pytest.approx(3 * PRESET.restore.call_s, rel=0.05)
    assert online.model.restore.byte_s == pytest.approx(3 * PRESET.restore.byte_s, rel=0.05)


def test_where_only_calls_take_time_a_byte_still_takes_some() -> None:
    online = OnlineTransfer(PRESET)
    for blocks in range(1, 60):
        online.observe(Direction.OFFLOAD, size=blocks * MIB, calls=1, measured_s=0.01)
    costs = online.model.costs(Direction.OFFLOAD, block_bytes=2 * MIB)
    assert costs.start_s == pytest.approx(0.01, rel=0.05)
    assert costs.block_s < PRESET.costs(Direction.OFFLOAD, block_bytes=2 * MIB).block_s


def test_copies_beside_others_count_for_the_link_alone() -> None:
    online = OnlineTransfer(PRESET)
    for size in range(1, 50):
        alone_s = PRESET.offload.copy_s(size * MIB, 1)
        online.observe(
            Direction.OFFLOAD, size=size * MIB, calls=1, measured_s=alone_s * PRESET.both_busy, both_busy=True
        )
    assert online.model.offload.byte_s == pytest.approx(PRESET.offload.byte_s, rel=0.01)


@pytest.mark.parametrize("slower", [1.0, 1.6])
def test_copies_beside_others_teach_how_much_both_ways_slow_each_other_down(slower: float) -> None:
    online = OnlineTransfer(PRESET)
    feed(online, PRESET.restore, 100)
    alone = online.model.restore
    for size in range(1, 200):
        hiccup = 100.0 if size % 50 == 0 else 1.0
        measured_s = slower * hiccup * PRESET.restore.copy_s(size * MIB, 1)
        online.observe(Direction.RESTORE, size=size * MIB, calls=1, measured_s=measured_s, both_busy=True)
    assert online.model.both_busy == pytest.approx(slower, rel=0.05)
    assert online.model.restore == alone


@pytest.mark.parametrize(("size", "calls", "measured_s"), [(0, 1, 0.1), (1, 0, 0.1), (1, 1, 0.0), (1, 1, math.inf)])
def test_a_copy_without_bytes_or_time_teaches_nothing(size: int, calls: int, measured_s: float) -> None:
    online = OnlineTransfer(PRESET)
    for _ in range(50):
        online.observe(Direction.RESTORE, size=size, calls=calls, measured_s=measured_s)
    assert online.rejected == 50
    assert online.model is PRESET


@settings(max_examples=50)
@given(
    copies=st.lists(
        st.tuples(
            st.sampled_from(Direction), st.integers(0, 10**9), st.integers(0, 1000), st.floats(0, 10), st.booleans()
        ),
        max_size=60,
    ),
    preset=st.sampled_from(
        [
            *TRANSFERS.values(),
            TransferModel(offload=LinkModel(call_s=0, byte_s=0), restore=LinkModel(call_s=0, byte_s=0)),
        ]
    ),
)
def test_predictions_are_never_negative(
    copies: list[tuple[Direction, int, int, float, bool]], preset: TransferModel
) -> None:
    online = OnlineTransfer(preset)
    for direction, size, calls, measured_s, both_busy in copies:
        online.observe(direction, size=size, calls=calls, measured_s=measured_s, both_busy=both_busy)
    for direction in Direction:
        link = online.model.link(direction)
        assert 0 <= link.call_s < math.inf
        assert 0 <= link.byte_s < math.inf
