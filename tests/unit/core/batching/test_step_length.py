"""Step lengths by hand: the constant is 10 ms, decodes alone take 15 ms, TPOT 100 ms."""

import numpy as np
import pytest

from engine_builders import MILLISECOND_PER_TOKEN
from proserve_core.batching.step_length import NO_DECODES_S, DecodeStakes, step_length, unhurried_length

DECODE_STEP_S = 0.015
SHORTEST_S = 0.025  # a quarter of the TPOT


def stakes(*slacks_s: float, gain: float = 1.0, left: float = 1.0) -> DecodeStakes:
    count = len(slacks_s)
    return DecodeStakes(slack_s=np.array(slacks_s), token_gain=np.full(count, gain), left=np.full(count, left))


def length(decodes: DecodeStakes, *, density: float = 0.0, decode_step_s: float = DECODE_STEP_S) -> float:
    return step_length(
        stakes=decodes, density=density, decode_step_s=decode_step_s, tpot_s=0.1, latency=MILLISECOND_PER_TOKEN
    )


def test_without_decodes_the_step_has_a_fixed_length() -> None:
    assert length(stakes()) == NO_DECODES_S


def test_a_dense_queue_and_nobody_due_make_the_longest_step() -> None:
    assert length(stakes(1.0, 2.0), density=100.0) == pytest.approx(0.092)


def test_late_decodes_make_the_shortest_step() -> None:
    # 0.3 * 100/s * 10 ms = 0.3 against 3 for the chance to catch up.
    assert length(stakes(-0.1, 1.0), density=100.0) == pytest.approx(SHORTEST_S)


def test_a_late_decode_with_nothing_left_does_not_count() -> None:
    assert length(stakes(-0.1, 1.0, left=0.0), density=100.0) == pytest.approx(0.092)


def test_the_step_ends_before_a_deadline_that_is_worth_more_than_the_time() -> None:
    # At 55 ms: 0.3 / 55 ms = 5.5 per second; at 65 ms and more the decode due in 60 ms adds 1.
    assert length(stakes(0.06, 1.0), density=100.0) == pytest.approx(0.055)


def test_time_that_is_worth_more_than_a_deadline_makes_the_step_longer() -> None:
    # 0.3 * 2000 * 10 ms = 6: 6/55 ms = 109 per second, (6 + 1)/92 ms = 76.
    assert length(stakes(0.06, 1.0), density=2000.0) == pytest.approx(0.092)


def test_no_step_is_shorter_than_all_decodes_need() -> None:
    assert length(stakes(-0.1), decode_step_s=0.08) == pytest.approx(1.03 * 0.08 + 1e-3)


def test_unhurried_steps_are_as_long_as_the_first_deadline_allows() -> None:
    def unhurried(*slacks_s: float) -> float:
        return unhurried_length(0.05, stakes=stakes(*slacks_s), decode_step_s=DECODE_STEP_S, tpot_s=0.1)

    assert unhurried(0.25, 1.0) == pytest.approx(0.2)
    assert unhurried(1.0) == pytest.approx(0.3)
    assert unhurried(0.12) == 0.05
    assert unhurried(-0.1, 1.0) == 0.05
    assert unhurried() == 0.05
