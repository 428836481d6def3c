"""The sliding window counter."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.admission.sliding_window import WindowUse, minute_of


def test_the_minute_before_counts_by_the_part_still_covered() -> None:
    assert WindowUse(100, 10, 0.25).used == 85
    assert WindowUse(100, 10, 1.0).used == 10


def test_more_given_back_than_taken_is_no_credit() -> None:
    assert WindowUse(0, -5, 0.5).used == 0


def test_what_is_larger_than_the_limit_never_fits() -> None:
    assert WindowUse(0, 0, 0).wait_s(11, 10) == math.inf


def test_minutes_are_numbered_alike_everywhere() -> None:
    assert minute_of(60.0 * 7 + 15) == (7, 0.25)


@given(
    before=st.integers(0, 200),
    current=st.integers(0, 200),
    passed=st.floats(0, 0.999),
    amount=st.integers(1, 100),
    limit=st.integers(100, 150),
)
def test_after_the_wait_it_fits_and_not_much_sooner(
    before: int, current: int, passed: float, amount: int, limit: int
) -> None:
    wait_s = WindowUse(before, current, passed).wait_s(amount, limit)

    def used_after(later_s: float) -> float:
        at = passed + later_s / 60
        if at < 1:
            return WindowUse(before, current, at).used
        return WindowUse(current, 0, at - 1).used if at < 2 else 0.0

    assert used_after(wait_s) + amount == pytest.approx(limit, abs=1e-6) or used_after(wait_s) + amount <= limit
    if wait_s > 0.1:
        assert used_after(wait_s - 0.1) + amount > limit


@given(before=st.integers(0, 200), current=st.integers(0, 200), passed=st.floats(0, 0.999))
def test_after_the_reset_nothing_counts(before: int, current: int, passed: float) -> None:
    reset_s = WindowUse(before, current, passed).reset_s
    at = passed + reset_s / 60
    left = WindowUse(before, current, at).used if at < 1 else current * max(0.0, 2 - at)
    assert left == pytest.approx(0, abs=1e-6)
