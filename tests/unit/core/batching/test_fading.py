"""Requests whose TPOT no step can keep, by hand: a step costs 10 ms and 1 ms per token, lengths are unknown (200 tokens
are expected, of which each ends the output with the same chance)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_builders import (
    MILLISECOND_PER_TOKEN,
    Arrival,
    decoding,
    drive,
    engine_limits,
    engine_state,
    service_terms,
    waiting,
)
from proserve_core.batching import RequestState
from proserve_core.batching.fading import KeptTpots, kept_tpots, tokens_in_time
from proserve_core.batching.length_observer import LengthObserver
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.clues import LengthClues
from proserve_core.replica import Replica

SHORTEST_S = 0.011
TOO_FAST = service_terms(tpot_s=0.01)


def columns(*requests: RequestState, now_s: float = 0.0) -> RequestColumns:
    return RequestColumns(engine_state(*requests, now_s=now_s))


def kept(*requests: RequestState, now_s: float = 0.0) -> KeptTpots:
    return kept_tpots(columns(*requests, now_s=now_s), MILLISECOND_PER_TOKEN)


def in_time(request: RequestState, *, early_s: float, lost_s: float) -> float:
    lengths = LengthObserver()
    asked = columns(request)
    profiles = lengths.profiles(asked)
    lengths.observe([], 0.0)
    (tokens,) = tokens_in_time(
        asked,
        np.array([0]),
        lengths.table,
        profiles,
        early_s=np.array([early_s]),
        lost_s=np.array([lost_s]),
    )
    return float(tokens)


def of_the_next(tokens: int) -> float:
    """How many of the next `tokens` tokens are expected."""
    return 200 * (1 - (1 - 1 / 200) ** tokens)


def test_tpots_that_steps_can_keep_stay_as_they_are() -> None:
    found = kept(decoding("d", terms=service_terms(tpot_s=SHORTEST_S)), waiting("w", 40))
    assert found.tpot_s.tolist() == [SHORTEST_S, 0.05]
    assert found.least_s == SHORTEST_S
    assert not len(found.fading)
    assert not found.spent.any()


def test_who_asks_for_less_than_the_shortest_step_sets_no_pace_for_the_others() -> None:
    found = kept(decoding("fast", terms=TOO_FAST), decoding("d"), waiting("w", 40, terms=service_terms(tpot_s=0.03)))
    assert found.fading.tolist() == [0]
    assert found.tpot_s.tolist() == [pytest.approx(SHORTEST_S), 0.05, 0.03]
    assert found.least_s == 0.05


def test_without_a_decode_that_can_be_kept_the_pace_is_that_of_the_prompts() -> None:
    assert kept(decoding("fast", terms=TOO_FAST), waiting("w", 40)).least_s == 0.05
    assert kept(decoding("fast", terms=TOO_FAST), waiting("w", 40, terms=TOO_FAST)).least_s == pytest.approx(SHORTEST_S)


def test_who_fades_and_is_late_is_late_for_ever() -> None:
    # The next tokens are due at 1.1 s, and no step ends within 10 ms.
    fast, slow = decoding("fast", emitted=10, terms=TOO_FAST), decoding("slow", emitted=2)
    assert kept(fast, slow, now_s=1.085).spent.tolist() == [False, False]
    assert kept(fast, slow, now_s=1.095).spent.tolist() == [True, False]


def test_tokens_are_in_time_until_what_is_in_hand_is_used_up() -> None:
    # 100 ms in hand, of which each token takes 4 ms: the 1st and 25 more.
    assert in_time(waiting("w", 40), early_s=0.1, lost_s=0.004) == pytest.approx(of_the_next(26))
    assert in_time(decoding("d", emitted=30), early_s=0.1, lost_s=0.004) == pytest.approx(of_the_next(26))
    assert in_time(waiting("w", 40), early_s=1e-6, lost_s=0.004) == pytest.approx(1)
    assert in_time(waiting("w", 40), early_s=0.0, lost_s=0.004) == 0


def test_no_more_tokens_are_in_time_than_the_client_asked_for() -> None:
    asked = waiting("w", 40)
    asked.clues = LengthClues(max_tokens=5)
    assert in_time(asked, early_s=0.1, lost_s=0.004) == pytest.approx(of_the_next(5))


@given(early_s=st.floats(-10, 1000), more_s=st.floats(0, 100), lost_s=st.floats(1e-6, 1), emitted=st.integers(0, 3000))
def test_more_in_hand_never_means_fewer_tokens_in_time(
    early_s: float, more_s: float, lost_s: float, emitted: int
) -> None:
    request = decoding("d", emitted=emitted) if emitted else waiting("w", 40)
    tokens = in_time(request, early_s=early_s, lost_s=lost_s)
    assert 0 <= tokens <= max(0.0, 1 + early_s / lost_s)
    assert tokens <= in_time(request, early_s=early_s + more_s, lost_s=lost_s) + 1e-6


@pytest.mark.parametrize("tpot_s", [0.001, 0.005, 0.0109])
def test_a_class_with_a_tpot_that_cannot_be_kept_takes_nothing_from_one_whose_tpot_can(tpot_s: float) -> None:
    """Ten requests a second of 20 prompt tokens and 30 output tokens: half of what the engine can do."""
    fast = service_terms(5.0, ttft_s=0.2, tpot_s=tpot_s)
    arrivals = [
        Arrival(
            id=f"r{number:03d}",
            arrival_s=number / 10,
            terms=fast if number % 3 == 0 else service_terms(ttft_s=0.5, tpot_s=0.06),
            prompt_tokens=20,
            output_tokens=30,
        )
        for number in range(120)
    ]
    replica = Replica(
        policy=RecoverableGain(), policy_name="test", limits=engine_limits(), latency=MILLISECOND_PER_TOKEN
    )
    outcome = drive(replica, arrivals)
    assert outcome.tdg_ratio(lambda arrival: arrival.terms is not fast) > 0.99
    # 200 ms, less a prompt in a step that others are in, are used up by 10 ms and more per token.
    assert outcome.tdg_ratio(lambda arrival: arrival.terms is fast) > 0.3
