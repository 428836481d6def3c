"""What is left of a request whose next token comes late."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.routing.gain_left import gain_left


def left(late_s: float, *, rest: float = 100.0, tpot_s: float = 0.05, step_s: float = 0.02) -> float:
    return float(
        gain_left(np.array([late_s]), full=7.0 + rest, token_gain=1.0, rest=rest, tpot_s=tpot_s, step_s=step_s)[0]
    )


def test_in_time_is_worth_everything() -> None:
    assert left(-0.001) == 107.0


def test_late_request_catches_up_and_keeps_the_tokens_after_that() -> None:
    """0.31 s late, 30 ms caught up per token: the first 11 are missed, and one in e is still running after 100."""
    assert left(0.31) == pytest.approx(100 * math.exp(-11 / 100))


def test_slower_steps_than_the_objective_catch_up_with_a_tenth_of_it() -> None:
    assert left(0.101, step_s=1.0) == pytest.approx(left(0.101, step_s=0.045))


def test_hardly_anything_left_is_nothing() -> None:
    assert left(0.03 * 380) > 0
    assert left(0.03 * 400) == 0.0


@given(late_s=st.floats(-10, 1e6), more_s=st.floats(0, 10), rest=st.floats(0, 1e5), step_s=st.floats(0, 10))
def test_later_is_never_worth_more(late_s: float, more_s: float, rest: float, step_s: float) -> None:
    late = left(late_s + more_s, rest=rest, step_s=step_s)
    assert 0.0 <= late <= left(late_s, rest=rest, step_s=step_s)
