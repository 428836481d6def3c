"""Several choices are several sequences: each token is judged by its place in its own."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.choices_account import ChoicesAccount
from proserve_core.gain import GainTotals, LossCause, RequestAccount
from proserve_core.objectives import PriorityClass, ServiceObjectives

TERMS = PriorityClass(
    name="high", weight=2, objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.1), first_token_gain=5
).terms()


def account(choices: int = 2) -> ChoicesAccount:
    return ChoicesAccount(TERMS, 10.0, choices=choices)


def test_first_token_of_every_choice_is_due_at_the_time_to_first_token() -> None:
    both = account()
    both.choice_at(10.5, 0, 1)
    both.choice_at(11.05, 1, 1)
    assert (both.earned, both.lost) == (10.0, {LossCause.LATE_FIRST_TOKEN: 10.0})
    assert not both.slo_attained


def test_choices_in_step_take_as_long_per_token_as_one_would() -> None:
    both = account()
    for step in range(1, 6):
        for index in (0, 1):
            both.choice_at(10.5 + 0.15 * step, index, 1)
    assert not both.slo_attained
    assert [each.tokens for each in both.accounts] == [5, 5]


def test_tokens_of_a_whole_reply_are_shared_equally() -> None:
    both = account()
    both.tokens_at(11.05, 5)
    assert sorted(each.tokens for each in both.accounts) == [2, 3]
    assert both.lost[LossCause.LATE_FIRST_TOKEN] == 2 * 10.0


@pytest.mark.parametrize(("tokens", "lost"), [((0, 0), 2 * 12.0), ((1, 0), 2.0 + 12.0), ((3, 1), 2.0)])
def test_what_will_never_come_is_charged_per_choice(tokens: Sequence[int], lost: float) -> None:
    both = account()
    for index, count in enumerate(tokens):
        both.choice_at(10.5, index, count)
    both.give_up(LossCause.ENGINE_FAILURE, 4)
    assert both.lost[LossCause.ENGINE_FAILURE] == lost
    assert not both.slo_attained


events = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 3), st.integers(0, 5)), max_size=20)


@given(events=events, broken=st.booleans(), late_s=st.none() | st.floats(10, 80))
def test_sums_are_those_of_as_many_requests(
    events: list[tuple[int, float, int]], broken: bool, late_s: float | None
) -> None:
    together, alone = account(4), [RequestAccount(TERMS, 10.0) for _ in range(4)]
    at_s = 10.0
    for index, wait_s, count in events:
        at_s += wait_s
        together.choice_at(at_s, index, count)
        alone[index].tokens_at(at_s, count)
    if broken:
        together.give_up(LossCause.ENGINE_FAILURE, 40, late_s=late_s)
        for each in alone:
            each.give_up(LossCause.ENGINE_FAILURE, 10, late_s=late_s)
    one, several = GainTotals(), GainTotals()
    one.add(together)
    for each in alone:
        several.add(each)
    assert (one.requests, one.tokens) == (1, several.tokens)
    assert one.earned == pytest.approx(several.earned)
    assert one.lost == pytest.approx(several.lost)
    assert one.slo_attained == (
        any(each.tokens for each in alone) and all(e.slo_attained for e in alone if e.tokens or broken)
    )
