"""Closed forms per bin against plain sums over tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.batching.output_bins import (
    BINS,
    LAST_TOKEN,
    STARTS,
    last_bin,
    locate,
    locate_one,
    passed,
    passed_by_one,
    survival,
)


def test_bins_grow_from_single_tokens() -> None:
    assert STARTS[:3].tolist() == [1, 2, 3]
    assert STARTS[-1] <= LAST_TOKEN
    assert (last_bin(1), last_bin(10**6)) == (0, BINS - 1)


_emitted = st.integers(0, 3 * LAST_TOKEN)


@given(steps=st.lists(st.tuples(_emitted, _emitted), max_size=5))
def test_each_token_is_counted_in_the_bin_that_it_is_in(steps: list[tuple[int, int]]) -> None:
    since, until = np.array(steps, dtype=float).reshape(-1, 2).T
    table = np.zeros((len(steps), BINS))
    output, bins, tokens = passed(since, until)
    table[output, bins] += tokens
    want = np.zeros_like(table)
    for row, (begin, end) in enumerate(steps):
        places = np.arange(min(begin, end), max(begin, end)) + 1
        in_bins = np.minimum(np.searchsorted(STARTS, places, side="right") - 1, BINS - 1)
        want[row] = (1 if end > begin else -1) * np.bincount(in_bins, minlength=BINS)
    assert (table == want).all()
    assert tokens.all()


@given(since=_emitted, more=st.integers(1, 2 * LAST_TOKEN))
def test_one_output_is_counted_as_many_are(since: int, more: int) -> None:
    _, bins, tokens = passed(np.array([float(since)]), np.array([float(since + more)]))
    first, found = passed_by_one(since, since + more)
    assert found.tolist() == tokens.tolist()
    assert bins.tolist() == list(range(first, first + len(found)))


@given(emitted=_emitted)
def test_one_output_is_where_it_is_among_many(emitted: int) -> None:
    bins, inside = locate(np.array([float(emitted)]))
    assert locate_one(emitted) == (bins[0], inside[0])


def test_the_last_token_is_in_the_bin_that_was_entered_last() -> None:
    for emitted in (1, 10, 500, 3 * LAST_TOKEN):
        _, bins, _ = passed(np.zeros(1), np.array([float(emitted)]))
        assert last_bin(emitted) == bins[-1]


def test_a_request_is_in_the_bin_of_its_next_token() -> None:
    bins, inside = locate(np.array([0.0, float(STARTS[40] + 1)]))
    assert bins.tolist() == [0, 40]
    assert inside.tolist() == [0.0, 2.0]


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), steep=st.floats(0.1, 3.0))
def test_mean_rest_is_the_sum_of_survival(seed: int, steep: float) -> None:
    hazard = np.minimum(10 ** np.random.default_rng(seed).normal(-2, steep, BINS), 0.999)
    hazard[-1] = max(hazard[-1], 1e-3)
    answer = survival(hazard[None])
    tokens = np.searchsorted(STARTS, np.arange(1, 60_000), side="right") - 1
    reached = np.concatenate(([1.0], np.cumprod(1 - hazard[tokens])))
    for place in (0, 5, 30):
        start = STARTS[place] - 1
        if reached[start] > 1e-100:
            rest = answer.tail[0, place] + answer.beyond[0, place] * np.exp(
                (STARTS[place + 1] - STARTS[place]) * answer.log_stay[0, place]
            )
            assert rest == pytest.approx(reached[start:].sum() / reached[start], rel=1e-6)
            assert answer.log_survival[0, place] == pytest.approx(np.log(reached[start]))


def test_outputs_that_never_get_that_far_still_have_an_answer() -> None:
    answer = survival(np.full((1, BINS), 0.999))
    assert np.isfinite(answer.tail).all()
    assert np.isfinite(answer.beyond).all()
