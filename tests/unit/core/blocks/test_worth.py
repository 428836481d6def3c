"""Whose blocks outlive whose on the host."""

import pytest

from proserve_core.batching import RequestState
from proserve_core.blocks.worth import gain_left
from proserve_core.objectives import ServiceObjectives, ServiceTerms


def state(*, weight: float = 1.0, emitted: int = 10) -> RequestState:
    """A token is due each 50 ms, the next one at 1.5 s."""
    terms = ServiceTerms(
        priority_class="c",
        weight=weight,
        first_token_gain=2,
        output_token_gain=1,
        objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.05),
    )
    return RequestState(id="r", arrival_s=0.0, terms=terms, prompt_tokens=100, emitted_tokens=emitted)


def test_a_heavy_class_is_worth_more() -> None:
    assert gain_left(state(weight=4), now_s=1.0, step_s=0.02) == 4 * gain_left(state(), now_s=1.0, step_s=0.02)


@pytest.mark.parametrize(("now_s", "gain"), [(1.4, 1.0), (2.0, 1.0), (3.0, 0.0)])
def test_who_cannot_catch_up_any_more_is_worth_nothing(now_s: float, gain: float) -> None:
    # 32 tokens at 20 ms each catch up 0.96 s.
    assert gain_left(state(), now_s=now_s, step_s=0.02) == gain


def test_in_steps_longer_than_its_time_per_token_who_is_late_stays_late() -> None:
    assert gain_left(state(), now_s=1.6, step_s=0.06) == 0.0
