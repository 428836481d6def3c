"""Values and densities by hand: a step costs 10 ms and 1 ms per token, lengths are unknown (200 tokens, no ageing)."""

import numpy as np
import pytest

from engine_builders import MILLISECOND_PER_TOKEN, decoding, engine_state, prefilling, service_terms, waiting
from proserve_core.batching import RequestState
from proserve_core.batching.fading import kept_tpots
from proserve_core.batching.gain_density import LEAST_PREFILL_SHARE, Pace, Prospects, prefill_share, prospects
from proserve_core.batching.length_observer import LengthObserver
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.clues import LengthClues

PACE = Pace(decode_step_s=0.012, step_s=0.025, decodes=2, prefill_share=0.5)


def columns(*requests: RequestState, now_s: float = 0.0) -> RequestColumns:
    return RequestColumns(engine_state(*requests, now_s=now_s))


def worth(*requests: RequestState, now_s: float = 0.0) -> Prospects:
    lengths = LengthObserver()
    asked = columns(*requests, now_s=now_s)
    profiles = lengths.profiles(asked)
    lengths.observe([], 0.0)
    tpots = kept_tpots(asked, MILLISECOND_PER_TOKEN)
    return prospects(asked, tpots, PACE, lengths.table, profiles, MILLISECOND_PER_TOKEN)


def share(*decodes: RequestState, wanted: float = 1.0) -> float:
    asked = columns(*decodes)
    tpots = kept_tpots(asked, MILLISECOND_PER_TOKEN)
    return prefill_share(asked, tpots, MILLISECOND_PER_TOKEN, np.arange(len(decodes)), wanted)


def test_a_prompt_in_time_brings_its_first_token_and_199_more() -> None:
    terms = service_terms(2.0, first_token_gain=10.0)
    result = worth(waiting("w", 100, terms=terms))
    assert result.value[0] == result.full_value[0] == pytest.approx(2 * 10 + 2 * 199)
    # 100 ms of prompt, and 200 tokens of 1 ms and a sixteenth of 10 ms each.
    assert result.density[0] == pytest.approx((20 + 398) / (0.1 + 200 * (0.001 + 0.01 / 16)))


def test_no_more_is_expected_than_the_client_asked_for() -> None:
    asked = waiting("w", 100)
    asked.clues = LengthClues(max_tokens=50)
    assert worth(asked).value[0] == pytest.approx(50)
    # Ready 0.3 s late, it misses 13 of the 50.
    assert worth(asked, now_s=1.1).value[0] == pytest.approx(50 - 13)


def test_a_decode_in_time_brings_all_its_tokens() -> None:
    assert worth(decoding("d", emitted=10)).value[0] == pytest.approx(200)


def test_a_late_decode_loses_the_tokens_until_it_has_caught_up() -> None:
    # The 11th token was due at 1.5 s; at 2 s the next one comes 0.512 s late and each step of 25 ms wins 25 ms back.
    missed = 1 + int((0.5 + 0.012) / (0.05 - 0.025))
    value = worth(decoding("d", emitted=10), now_s=2.0).value[0]
    assert value == pytest.approx(200 * (1 - 1 / 200) ** missed)


def test_where_no_step_keeps_the_tpot_only_tokens_until_the_slack_is_used_up_are_worth_and_cost_something() -> None:
    # Due at 0.55 s and ready in 12 ms, each step of 25 ms takes 20 ms: the 1st and 26 more come in time.
    fast = decoding("d", emitted=10, terms=service_terms(2.0, ttft_s=0.5, tpot_s=0.005))
    result = worth(fast)
    tokens = 200 * (1 - (1 - 1 / 200) ** 27)
    assert result.value[0] == pytest.approx(2 * tokens)
    assert result.full_value[0] == pytest.approx(2 * 200)
    assert result.cost_s[0] == pytest.approx(tokens * (0.001 + 0.01 / 16))
    assert result.lead_s[0] == pytest.approx(0.55 - 200 * 0.02)


def test_where_no_step_keeps_the_tpot_a_late_request_is_worth_nothing_however_long_its_output() -> None:
    fast = service_terms(9.0, ttft_s=0.5, tpot_s=0.005)
    late = worth(decoding("d", emitted=10, terms=fast), waiting("w", 400, terms=fast), now_s=0.545)
    assert late.value.tolist() == [0, 0]
    assert late.density.tolist() == [0, 0]


def test_a_late_prompt_counts_what_others_leave_of_the_time() -> None:
    # 100 ms of prompt in half of the time: ready in 200 ms, 0.3 s after the deadline of 1 s.
    value = worth(waiting("w", 100), now_s=1.1).value[0]
    assert value == pytest.approx(200 * (1 - 1 / 200) ** (1 + int(0.3 / 0.025 + 1e-9)))


def test_who_has_lost_nearly_everything_is_worth_nothing() -> None:
    # 2% of the tokens are left after 780 missed ones: 19.5 s late.
    assert worth(decoding("d", emitted=1), now_s=1.05 + 18.0).value[0] > 0
    assert worth(decoding("d", emitted=1), now_s=1.05 + 21.0).value[0] == 0


def test_a_started_prompt_is_denser_than_one_that_has_not() -> None:
    started, fresh = worth(prefilling("p", 400, 300), waiting("w", 400)).density
    assert started > fresh


def test_a_preempted_request_pays_for_its_emitted_tokens_again() -> None:
    result = columns(waiting("w", 100, emitted=50))
    assert result.prefill_s[0] == pytest.approx(0.150)
    assert not result.decode[0]


def test_decodes_leave_the_rest_of_the_time_to_prompts() -> None:
    # Four of 1 ms per 50 ms each, and the constant of 10 ms per 40 ms.
    four = [decoding(name) for name in "abcd"]
    assert share(*four) == pytest.approx(1 - 4 * 0.02 - 0.25)
    assert share(*four, wanted=0.5) == pytest.approx(1 - 2 * 0.02 - 0.25)
    assert share(*[decoding(f"d{number}") for number in range(64)]) == LEAST_PREFILL_SHARE
