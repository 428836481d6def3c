"""TDG against brute force, and where the ledger books what was lost."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proserve_core.gain import (
    GainLedger,
    LossCause,
    RequestAccount,
    deadline_s,
    earnable_gain,
    earned_gain,
    rest_terms,
    slo_attained,
)
from proserve_core.objectives import ServiceObjectives, ServiceTerms


def terms(
    name: str = "high",
    *,
    weight: float = 2,
    first: float = 10,
    each: float = 1,
    ttft_s: float = 1.0,
    tpot_s: float = 0.25,
) -> ServiceTerms:
    return ServiceTerms(
        priority_class=name,
        weight=weight,
        first_token_gain=first,
        output_token_gain=each,
        objectives=ServiceObjectives(ttft_s=ttft_s, tpot_s=tpot_s),
    )


def account(*emitted_s: float, of: ServiceTerms | None = None, arrival_s: float = 100.0) -> RequestAccount:
    """Account of a request that got one token at each time after its arrival."""
    result = RequestAccount(of or terms(), arrival_s)
    for at_s in emitted_s:
        result.tokens_at(arrival_s + at_s)
    return result


# Times in quarter seconds are exact in binary, so that brute force in fractions meets the same "strictly before".
quarters = st.integers(0, 200).map(lambda quarter: quarter / 4)
some_terms = st.builds(
    terms,
    weight=st.integers(1, 8),
    first=st.integers(0, 10),
    each=st.integers(0, 10),
    ttft_s=quarters,
    tpot_s=quarters,
)
timelines = st.lists(quarters, max_size=30).map(sorted)


def brute_force_tdg(of: ServiceTerms, arrival_s: float, emitted_s: Sequence[float]) -> Fraction:
    total = Fraction(0)
    due = Fraction(arrival_s) + Fraction(of.objectives.ttft_s)
    worth = Fraction(of.first_token_gain)
    for at_s in emitted_s:
        if Fraction(at_s) < due:
            total += Fraction(of.weight) * worth
        due += Fraction(of.objectives.tpot_s)
        worth = Fraction(of.output_token_gain)
    return total


@given(of=some_terms, arrival_s=quarters, emitted_s=timelines)
def test_earned_gain_is_the_brute_force_sum(of: ServiceTerms, arrival_s: float, emitted_s: list[float]) -> None:
    assert earned_gain(of, arrival_s, emitted_s) == brute_force_tdg(of, arrival_s, emitted_s)


@given(of=some_terms, arrival_s=quarters, emitted_s=timelines, expected=st.integers(0, 40))
def test_account_judges_like_brute_force_and_books_the_rest_as_lost(
    of: ServiceTerms, arrival_s: float, emitted_s: list[float], expected: int
) -> None:
    request = RequestAccount(of, arrival_s)
    for at_s in emitted_s:
        request.tokens_at(at_s)

    assert request.earned == brute_force_tdg(of, arrival_s, emitted_s)
    assert request.earnable == earnable_gain(of, len(emitted_s))

    request.give_up(LossCause.ENGINE_FAILURE, expected)

    assert request.earnable == earnable_gain(of, max(expected, len(emitted_s)))
    assert all(gain >= 0 for gain in request.lost.values())


@given(of=some_terms, bursts=st.lists(st.tuples(quarters, st.integers(0, 5)), max_size=10).map(sorted))
def test_tokens_emitted_together_count_like_tokens_one_by_one(
    of: ServiceTerms, bursts: list[tuple[float, int]]
) -> None:
    together, singly = RequestAccount(of, 0.0), RequestAccount(of, 0.0)
    for at_s, count in bursts:
        together.tokens_at(at_s, count)
        for _ in range(count):
            singly.tokens_at(at_s)

    assert (together.tokens, together.earned, together.lost) == (singly.tokens, singly.earned, singly.lost)
    assert together.slo_attained == singly.slo_attained


def test_a_count_that_no_engine_can_mean_costs_no_time() -> None:
    of = terms()
    account = RequestAccount(of, 0.0)
    account.tokens_at(100.0, 2**31 - 1)
    assert account.tokens == 2**31 - 1
    assert account.earnable == earnable_gain(of, account.tokens)


@given(of=some_terms, arrival_s=quarters, emitted_s=timelines, cut=st.integers(0, 30))
def test_rest_of_a_request_is_worth_what_it_was_in_the_whole(
    of: ServiceTerms, arrival_s: float, emitted_s: list[float], cut: int
) -> None:
    first, rest = emitted_s[:cut], emitted_s[cut:]
    whole = earned_gain(of, arrival_s, emitted_s)
    assert whole == earned_gain(of, arrival_s, first) + earned_gain(rest_terms(of, len(first)), arrival_s, rest)


def test_token_at_its_deadline_is_late() -> None:
    assert deadline_s(terms=terms(), arrival_s=100.0, token=3) == 101.5
    assert earned_gain(terms(), 100.0, [101.0]) == 0
    assert earned_gain(terms(), 100.0, [100.999]) == 20


def test_late_token_never_moves_the_next_deadline() -> None:
    late_then_on_time = account(0.5, 1.4, 1.45, 1.7)

    assert late_then_on_time.earned == 2 * (10 + 0 + 1 + 1)
    assert late_then_on_time.lost == {LossCause.LATE_TOKEN_BATCHED: 2}


def test_request_without_tokens_is_worth_nothing_yet() -> None:
    assert earnable_gain(terms(), 0) == 0
    assert account().earnable == 0


def test_late_first_token_makes_what_follows_late_from_queueing() -> None:
    assert account(5.0, 5.1).lost == {LossCause.LATE_FIRST_TOKEN: 20, LossCause.LATE_TOKEN_QUEUED: 2}


def test_tokens_late_after_a_preemption_are_charged_to_it_until_the_request_caught_up() -> None:
    request = account(0.5)
    request.preempted = True
    for at_s in (101.3, 101.6, 101.7):  # late, late, on time
        request.tokens_at(at_s)
    request.tokens_at(109.0)

    assert request.lost == {LossCause.LATE_TOKEN_PREEMPTED: 4, LossCause.LATE_TOKEN_BATCHED: 2}


def test_shed_request_loses_all_it_could_have_earned() -> None:
    shed = account()
    shed.give_up(LossCause.SHED, expected_tokens=11)

    assert (shed.earned, shed.lost) == (0, {LossCause.SHED: 2 * (10 + 10)})
    assert not shed.slo_attained


def test_cancelled_request_loses_only_the_tokens_that_were_still_to_come() -> None:
    cancelled = account(0.5, 0.6)
    cancelled.give_up(LossCause.CLIENT_CANCEL, expected_tokens=5)

    assert (cancelled.earned, cancelled.lost) == (22, {LossCause.CLIENT_CANCEL: 6})
    assert not cancelled.slo_attained


def test_client_that_leaves_because_nothing_comes_is_charged_only_for_what_was_not_late() -> None:
    silent = account()
    silent.give_up(LossCause.CLIENT_CANCEL, expected_tokens=5, late_s=101.5)  # due at 101, 101.25, 101.5 ...

    assert silent.lost == {
        LossCause.LATE_FIRST_TOKEN: 20, LossCause.LATE_TOKEN_QUEUED: 4, LossCause.CLIENT_CANCEL: 4,
    }  # fmt: skip
    assert not silent.slo_attained


def test_client_that_leaves_a_stream_that_has_stopped_is_charged_only_for_what_was_not_late() -> None:
    stopped = account(0.5, 0.6)
    stopped.give_up(LossCause.CLIENT_CANCEL, expected_tokens=5, late_s=109.0)

    assert (stopped.earned, stopped.lost) == (22, {LossCause.LATE_TOKEN_BATCHED: 6, LossCause.CLIENT_CANCEL: 0})
    assert not stopped.slo_attained


@given(of=some_terms, emitted_s=st.lists(quarters, max_size=10).map(sorted), expected=st.integers(0, 20), more=quarters)
def test_tokens_late_when_a_request_is_given_up_lose_what_they_would_have_lost_then(
    of: ServiceTerms, emitted_s: list[float], expected: int, more: float
) -> None:
    given_up, at_last = RequestAccount(of, 0.0), RequestAccount(of, 0.0)
    for at_s in emitted_s:
        given_up.tokens_at(at_s)
        at_last.tokens_at(at_s)
    late_s = max([0.0, *emitted_s]) + more
    given_up.give_up(LossCause.CLIENT_CANCEL, expected, late_s=late_s)
    at_last.tokens_at(late_s, expected - len(emitted_s))

    assert given_up.earnable == earnable_gain(of, max(expected, len(emitted_s)))
    assert given_up.lost.pop(LossCause.CLIENT_CANCEL, 0.0) == at_last.earned - given_up.earned
    assert sum(given_up.lost.values()) == sum(at_last.lost.values())


def test_giving_up_a_finished_request_changes_nothing() -> None:
    finished = account(0.5, 0.6)
    finished.give_up(LossCause.CLIENT_CANCEL, expected_tokens=2)

    assert (finished.earned, finished.lost, finished.slo_attained) == (22, {}, True)


def test_failed_request_did_not_attain_its_objectives_even_if_the_missing_tokens_are_worth_nothing() -> None:
    failed = account(0.5, of=terms(each=0))
    failed.give_up(LossCause.ENGINE_FAILURE, expected_tokens=5)

    assert failed.lost == {LossCause.ENGINE_FAILURE: 0}
    assert not failed.slo_attained


@pytest.mark.parametrize(
    ("first_s", "last_s", "tokens", "attained"),
    [
        (100.9, 100.9, 1, True),
        (101.0, 101.0, 1, False),
        (100.9, 101.8, 5, True),
        (100.5, 101.5, 5, False),
    ],
    ids=["first token in time", "first token at its objective", "mean below", "mean at its objective"],
)
def test_slo_needs_first_token_and_mean_time_per_token_strictly_below(
    first_s: float, last_s: float, tokens: int, attained: bool
) -> None:
    assert slo_attained(terms(), 100.0, first_s, last_s, tokens) is attained


def test_ledger_sums_by_class_and_tenant() -> None:
    ledger = GainLedger()
    ledger.close(account(0.5, 0.6), tenant="a")
    ledger.close(account(5.0), tenant="a")
    ledger.close(account(0.5), tenant="b")
    ledger.close(account(0.5, of=terms("low", weight=1)), tenant="a")

    high_a = ledger.by_class_and_tenant["high", "a"]
    assert (high_a.requests, high_a.tokens, high_a.slo_attained) == (2, 3, 1)
    assert (high_a.earned, high_a.earnable, high_a.lost) == (22, 42, {LossCause.LATE_FIRST_TOKEN: 20})
    assert high_a.tdg_ratio == pytest.approx(22 / 42)
    assert high_a.slo_attainment == 0.5
    assert {name: totals.requests for name, totals in ledger.by_class().items()} == {"high": 3, "low": 1}
    assert (ledger.total().requests, ledger.total().earned) == (4, 22 + 20 + 10)


def test_reading_sums_leaves_the_ledger_as_it_was() -> None:
    ledger = GainLedger()
    ledger.close(account(5.0))
    for _ in range(2):
        assert ledger.total().lost == ledger.by_class()["high"].lost == {LossCause.LATE_FIRST_TOKEN: 20}


def test_empty_ledger_lost_nothing() -> None:
    assert (GainLedger().total().tdg_ratio, GainLedger().total().slo_attainment) == (1.0, 1.0)


@given(
    steps=st.lists(st.tuples(st.sampled_from([0.0, 0.02, 0.05, 0.3]), st.booleans()), min_size=1, max_size=30),
    ttft_s=st.sampled_from([0.05, 0.5]),
)
@example(
    # Late after a preemption, on time again, then late once more.
    steps=[(0.0, False), (0.3, True), *[(0.0, False)] * 6, (0.3, False)],
    ttft_s=0.05,
)
def test_tokens_judged_together_are_judged_as_one_by_one(steps: list[tuple[float, bool]], ttft_s: float) -> None:
    agreed = terms(ttft_s=ttft_s, tpot_s=0.05)
    single, together = RequestAccount(agreed, 1.0), RequestAccount(agreed, 1.0)
    now_s, waiting = 1.0, list[float]()
    for gap_s, preempted in steps:
        now_s += gap_s
        if preempted:
            together.tokens_over(waiting)
            waiting = []
            single.preempted = together.preempted = True
        single.tokens_at(now_s)
        waiting.append(now_s)
    together.tokens_over(waiting)
    assert (together.earned, together.lost) == (single.earned, single.lost)
    assert (together.tokens, together.first_s, together.last_s) == (single.tokens, single.first_s, single.last_s)
    assert (together.preempted, together.slo_attained) == (single.preempted, single.slo_attained)
