"""Step lengths by hand: the constant is 10 ms, decodes alone take 15 ms, TPOT 100 ms."""

import numpy as np
import pytest

from engine_builders import MILLISECOND_PER_TOKEN
from proserve_core.batching.step_length import NO_DECODES_S, DecodeStakes, step_length, time_price, unhurried_length

DECODE_STEP_S = 0.015
SHORTEST_S = 0.025  # a quarter of the TPOT


def stakes(*slacks_s: float, gain: float = 1.0, left: float = 1.0) -> DecodeStakes:
    count = len(slacks_s)
    return DecodeStakes(
        slack_s=np.array(slacks_s),
        lead_s=np.array(slacks_s),
        lost_s=np.zeros(count),
        most_lost=np.full(count, np.inf),
        tpot_s=np.full(count, 0.1),
        token_gain=np.full(count, gain),
        left=np.full(count, left),
    )


def length(decodes: DecodeStakes, *, price: float = 0.0, decode_step_s: float = DECODE_STEP_S) -> float:
    return step_length(
        stakes=decodes, price=price, decode_step_s=decode_step_s, tpot_s=0.1, latency=MILLISECOND_PER_TOKEN
    )


def test_without_decodes_the_step_has_a_fixed_length() -> None:
    assert length(stakes()) == NO_DECODES_S


def test_cheap_time_and_nobody_due_make_a_step_just_below_the_tpot() -> None:
    # At 92 ms the constant costs 30/s * 10 ms / 92 ms = 3.3 per second. At 150 ms it costs 2, and the leads of two
    # decodes with 10 and 20 TPOTs in hand 0.5 * (exp(-10/12) + exp(-20/12)) / 150 ms = 2.1.
    assert length(stakes(1.0, 2.0), price=30.0) == pytest.approx(0.092)


def test_dear_time_and_decodes_far_ahead_make_a_step_of_several_tpots() -> None:
    # 300/s * 10 ms = 3. With 50 TPOTs in hand a lead is worth exp(-50/12) = 0.016 tokens: 500 ms cost 3.06 / 0.5 = 6.1.
    assert length(stakes(5.0), price=300.0) == pytest.approx(0.5)
    # 3.4 / 300 ms = 11, 4.6 / 500 ms = 9 with 10 TPOTs in hand and one decode; with ten (3 + 10 * 0.43) / 150 ms / 2 is
    # dearer than 3 / 92 ms = 33 by far.
    assert length(stakes(*[1.0] * 20), price=300.0) == pytest.approx(0.092)


def test_steps_are_not_long_when_no_prompt_waits() -> None:
    assert length(stakes(50.0), price=0.0) <= 0.092


def test_late_decodes_make_the_shortest_step() -> None:
    # 30/s * 10 ms = 0.3 against 3 for the chance to catch up.
    assert length(stakes(-0.1, 1.0), price=30.0) == pytest.approx(SHORTEST_S)


def test_a_late_decode_before_dear_time_does_not_make_the_step_short() -> None:
    # 600/s * 10 ms = 6 is more than the 3 tokens of a chance to catch up, so fewer steps are better; the lead of a late
    # one is worth T / TPOT - 1 tokens.
    assert length(stakes(-0.1), price=600.0) > 0.09


def test_a_late_decode_with_nothing_left_does_not_count() -> None:
    assert length(stakes(-0.1, left=0.0), price=30.0) == pytest.approx(0.5)


def test_the_step_ends_before_a_deadline_that_is_worth_more_than_the_time() -> None:
    # At 55 ms: 0.3 / 55 ms = 5.5 per second; at 65 ms and more the decode due in 60 ms adds 1.
    assert length(stakes(0.06, 1.0), price=30.0) == pytest.approx(0.055)


def test_time_that_is_worth_more_than_a_deadline_makes_the_step_longer() -> None:
    # 6/55 ms = 109 per second, (6 + 1)/92 ms = 76.
    assert length(stakes(0.06, *[1.0] * 20), price=600.0) == pytest.approx(0.092)


def test_time_is_worth_what_late_prompts_lose_within_bounds() -> None:
    assert time_price(density=100.0, delay_loss=0.0) == pytest.approx(30.0)
    assert time_price(density=100.0, delay_loss=70.0) == 70.0
    assert time_price(density=100.0, delay_loss=1000.0) == 100.0
    assert time_price(density=0.0, delay_loss=0.0) == 0.0


def fading(*, lead_s: float, most_lost: float) -> DecodeStakes:
    """A decode with half a second in hand that asks for a token each 80 ms and gets one each 100 ms."""
    return DecodeStakes(
        slack_s=np.array([0.5]),
        lead_s=np.array([lead_s]),
        tpot_s=np.array([0.1]),
        lost_s=np.array([0.02]),
        token_gain=np.ones(1),
        left=np.ones(1),
        most_lost=np.array([most_lost]),
    )


def test_a_decode_that_fades_makes_short_steps_for_as_long_as_there_is_something_to_lose() -> None:
    # 300/s * 10 ms = 3. A step of 25 ms wins 75 ms, 3.75 tokens at 20 ms each: -0.75 / 25 ms = -30.
    assert length(fading(lead_s=-1.0, most_lost=25.0), price=300.0) == pytest.approx(SHORTEST_S)
    assert length(fading(lead_s=-1.0, most_lost=2.0), price=300.0) == pytest.approx(SHORTEST_S)
    # 1200/s * 10 ms = 12: (12 - 3.75) / 25 ms = 330, 12 / 92 ms = 130. In 500 ms 20 tokens are lost and 4 for the lead,
    # (12 + 24) / 500 ms = 72, but for 2 that are in time (12 + 2) / 500 ms = 28.
    assert length(fading(lead_s=-1.0, most_lost=2.0), price=1200.0) == pytest.approx(0.5)


def test_a_decode_that_fades_with_more_in_hand_than_it_needs_can_wait() -> None:
    assert length(fading(lead_s=10.0, most_lost=25.0), price=300.0) == pytest.approx(0.5)


def test_no_step_is_shorter_than_all_decodes_need() -> None:
    assert length(stakes(-0.1), decode_step_s=0.08) == pytest.approx(1.03 * 0.08 + 1e-3)


def test_a_step_is_no_longer_than_helps_but_long_enough_for_all_decodes() -> None:
    def capped(longest_s: float) -> float:
        return step_length(
            stakes=stakes(1.0, 2.0),
            price=30.0,
            decode_step_s=DECODE_STEP_S,
            tpot_s=0.1,
            latency=MILLISECOND_PER_TOKEN,
            longest_s=longest_s,
        )

    assert capped(0.5) == length(stakes(1.0, 2.0), price=30.0)
    assert capped(0.04) == 0.04
    assert capped(0.001) == pytest.approx(1.03 * DECODE_STEP_S + 1e-3)


def test_unhurried_steps_are_as_long_as_the_first_deadline_allows() -> None:
    def unhurried(*slacks_s: float) -> float:
        return unhurried_length(0.05, stakes=stakes(*slacks_s), decode_step_s=DECODE_STEP_S, tpot_s=0.1)

    assert unhurried(0.25, 1.0) == pytest.approx(0.2)
    assert unhurried(1.0) == pytest.approx(0.3)
    assert unhurried(0.12) == 0.05
    assert unhurried(-0.1, 1.0) == 0.05
    assert unhurried() == 0.05
