"""What a class says about its requests that can't be served."""

import pytest

from proserve_core.admission.overload import Refusal, degraded_to, needs_prospect, patience_s
from proserve_core.objectives import Overload, OverloadAction

QUEUE = Overload()
SHED = Overload(action=OverloadAction.SHED)
DEGRADE = Overload(action=OverloadAction.DEGRADE, degrade_to="low")


def test_only_a_queue_keeps_requests_without_prospect() -> None:
    assert [needs_prospect(each) for each in (QUEUE, SHED, DEGRADE)] == [False, True, True]


@pytest.mark.parametrize(
    ("longest_s", "age_s", "expected_s"),
    [(None, 10.0, 590.0), (30.0, 10.0, 20.0), (30.0, 40.0, 0.0), (900.0, 0.0, 600.0)],
)
def test_patience_counts_from_the_arrival(longest_s: float | None, age_s: float, expected_s: float) -> None:
    assert patience_s(Overload(max_queue_time_s=longest_s), age_s=age_s, most_s=600.0) == expected_s


def test_request_goes_on_in_the_class_that_its_own_names() -> None:
    assert degraded_to(DEGRADE, Refusal.NO_GAIN, {"high"}) == "low"
    assert degraded_to(DEGRADE, Refusal.QUEUE_TIME, {"high"}) == "low"


def test_full_gateway_and_a_class_that_was_tried_are_the_end() -> None:
    assert degraded_to(DEGRADE, Refusal.ROOM_FULL, {"high"}) is None
    assert degraded_to(DEGRADE, Refusal.NO_GAIN, {"high", "low"}) is None
    assert degraded_to(SHED, Refusal.NO_GAIN, {"high"}) is None
