"""One engine more for gain that is lost, one less when none would be."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.capacity import CapacitySnapshot, RequestRow
from proserve_core.gain import GainTotals, LossCause
from proserve_core.latency import LatencyModel
from proserve_core.pools import Scaling
from proserve_core.scaling import (
    Decision,
    Sample,
    ScalingState,
    Verdict,
    capacity_loss,
    decide,
    loss_with_one_less,
    stake,
)

SCALING = Scaling(min_engines=1, max_engines=8, max_loss_percent=2, scale_up_delay_s=30.0, scale_down_delay_s=300.0)
CALM = Sample(at_s=0.0, engines=4, ready=4, loss=0.0, loss_with_one_less=0.0)


def sample(**changes: object) -> Sample:
    return msgspec.structs.replace(CALM, **changes)


def after(seconds: float, *, step_s: float = 15.0, scaling: Scaling = SCALING, **changes: object) -> Decision:
    """The decision when a sample holds for so long."""
    state, at_s = ScalingState(), 0.0
    while True:
        now = sample(at_s=at_s, **changes)
        decision = decide(scaling, state, msgspec.structs.replace(now, not_ready_s=at_s if now.ready < 4 else 0.0))
        state = decision.state
        if at_s >= seconds or decision.engines != CALM.engines:
            return decision
        at_s += step_s


def test_lost_gain_brings_an_engine_only_when_it_lasts() -> None:
    assert after(15, loss=0.05).engines == 4
    decision = after(30, loss=0.05)
    assert (decision.engines, decision.verdict) == (5, Verdict.UP)
    assert decision.message == "4 -> 5: 5.0% of the gain is lost for want of capacity"


def test_loss_that_stops_in_between_begins_anew() -> None:
    state = decide(SCALING, ScalingState(), sample(loss=0.05)).state
    state = decide(SCALING, state, sample(at_s=20.0)).state
    assert decide(SCALING, state, sample(at_s=40.0, loss=0.05)).engines == 4


def test_large_loss_brings_several_engines_at_once() -> None:
    assert after(30, loss=0.6).engines == 6


def test_never_more_than_the_maximum() -> None:
    decision = after(30, loss=0.9, scaling=msgspec.structs.replace(SCALING, max_engines=4))
    assert (decision.engines, decision.verdict) == (4, Verdict.AT_MAXIMUM)


def test_engine_that_would_not_be_missed_goes_when_that_lasts() -> None:
    assert after(285).engines == 4
    decision = after(300)
    assert (decision.engines, decision.verdict) == (3, Verdict.DOWN)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_with_one_less": 0.011},
        {"loss_with_one_less": None},
        {"loss": 0.011},
        {"loss": None},
        {"ready": 3},
    ],
)
def test_engine_stays_while_it_is_needed_or_nobody_knows(changes: dict[str, Any]) -> None:
    assert after(10_000, **changes).engines == 4


def test_engine_that_does_not_start_goes_when_it_is_not_needed() -> None:
    late: dict[str, Any] = {"ready": 3, "start_limit_s": 600.0, "loss_with_one_less": None}
    assert after(585, **late).verdict is Verdict.STARTING
    assert after(885, **late).verdict is Verdict.LATE
    decision = after(10_000, **late)
    assert (decision.engines, decision.verdict) == (3, Verdict.DOWN)


def test_no_engine_is_added_beside_one_that_does_not_start_and_none_goes_while_gain_is_lost() -> None:
    decision = after(10_000, ready=3, start_limit_s=600.0, loss=0.3)
    assert (decision.engines, decision.verdict) == (4, Verdict.LATE)


def test_no_engine_goes_while_a_gateway_is_silent_that_may_be_the_overloaded_one() -> None:
    for seconds, verdict in ((285, Verdict.STEADY), (300, Verdict.HELD), (10_000, Verdict.HELD)):
        decision = after(seconds, all_gateways_tell=False)
        assert (decision.engines, decision.verdict) == (4, verdict)
    assert decision.message == "not all gateways report, so no engine goes"
    late: dict[str, Any] = {"ready": 3, "start_limit_s": 600.0, "loss_with_one_less": None}
    for seconds, verdict in ((870, Verdict.LATE), (900, Verdict.HELD)):
        decision = after(seconds, **late, all_gateways_tell=False)
        assert (decision.engines, decision.verdict) == (4, verdict)
    assert after(30, loss=0.05, all_gateways_tell=False).verdict is Verdict.UP


def test_wish_for_one_engine_less_begins_anew_when_all_gateways_report() -> None:
    held = ScalingState(less_since_s=0.0, silence=True)
    assert decide(SCALING, held, sample(at_s=400.0, all_gateways_tell=False)).verdict is Verdict.HELD
    heard = decide(SCALING, held, sample(at_s=400.0))
    assert (heard.verdict, heard.state.less_since_s) == (Verdict.STEADY, 400.0)
    assert decide(SCALING, heard.state, sample(at_s=700.0)).verdict is Verdict.DOWN


def test_wish_for_one_engine_more_lasts_whoever_reports() -> None:
    lossy = decide(SCALING, ScalingState(), sample(loss=0.05))
    assert decide(SCALING, lossy.state, sample(at_s=30.0, loss=0.05, all_gateways_tell=False)).verdict is Verdict.UP


def test_last_engine_stays() -> None:
    decision = decide(SCALING, ScalingState(less_since_s=0.0), sample(at_s=9999.0, engines=1, ready=1))
    assert (decision.engines, decision.verdict) == (1, Verdict.STEADY)


def test_limits_that_changed_hold_at_once() -> None:
    assert decide(msgspec.structs.replace(SCALING, max_engines=2), ScalingState(), CALM).engines == 2
    assert decide(msgspec.structs.replace(SCALING, min_engines=6), ScalingState(), CALM).engines == 6


SLEEPY = msgspec.structs.replace(SCALING, min_engines=0, idle_delay_s=600.0)


def asleep_after(*samples: Sample, scaling: Scaling = SLEEPY) -> list[int]:
    """Engines after each sample, five minutes apart, when each decision is followed."""
    state, engines, found = ScalingState(), 1, []
    for number, each in enumerate(samples):
        now = msgspec.structs.replace(each, at_s=300.0 * number, engines=engines, ready=engines)
        decision = decide(scaling, state, now)
        state, engines = decision.state, decision.engines
        found.append(engines)
    return found


NOBODY = sample(loss_with_one_less=None)
SOMEBODY = sample(loss_with_one_less=None, requests=1)


def test_last_engine_goes_when_nobody_came_for_long_and_comes_back_with_the_first_request() -> None:
    assert asleep_after(NOBODY, NOBODY, NOBODY, NOBODY, SOMEBODY, SOMEBODY) == [1, 1, 0, 0, 1, 1]
    assert asleep_after(NOBODY, NOBODY, SOMEBODY, NOBODY, NOBODY, NOBODY) == [1, 1, 1, 1, 1, 0]


def test_last_engine_stays_while_a_gateway_does_not_say_that_nobody_came() -> None:
    unsure = sample(loss_with_one_less=None, all_gateways_tell=False)
    assert asleep_after(NOBODY, NOBODY, unsure, NOBODY, NOBODY) == [1] * 5
    assert asleep_after(*[unsure] * 5) == [1] * 5
    idle = ScalingState(idle_since_s=0.0, silence=True)
    held = decide(SLEEPY, idle, msgspec.structs.replace(unsure, at_s=600.0, engines=1, ready=1))
    assert held.verdict is Verdict.HELD
    silent = sample(loss=None)
    assert asleep_after(NOBODY, NOBODY, silent, NOBODY, NOBODY) == [1] * 5


def test_last_engine_stays_where_there_must_be_one() -> None:
    assert asleep_after(*[NOBODY] * 9, scaling=SCALING) == [1] * 9


def test_sleeping_pool_stays_asleep_while_no_gateway_reports() -> None:
    decision = decide(SLEEPY, ScalingState(), sample(engines=0, ready=0, loss=None, requests=0))
    assert (decision.engines, decision.verdict) == (0, Verdict.BLIND)


def test_engine_that_somebody_waits_for_is_not_given_up_because_it_does_not_start() -> None:
    late = sample(engines=1, ready=0, requests=3, not_ready_s=9999.0, start_limit_s=600.0, loss=0.0, at_s=9999.0)
    decision = decide(SLEEPY, ScalingState(less_since_s=0.0), late)
    assert (decision.engines, decision.verdict) == (1, Verdict.LATE)


def test_idle_pool_of_several_engines_goes_down_one_by_one() -> None:
    state, engines, steps = ScalingState(), 3, []
    for minute in range(40):
        one_less = None if engines < 2 else 0.0
        now = sample(at_s=60.0 * minute, engines=engines, ready=engines, loss_with_one_less=one_less)
        decision = decide(SLEEPY, state, now)
        state, engines = decision.state, decision.engines
        steps.append(engines)
    assert sorted(set(steps), reverse=True) == [3, 2, 1, 0]
    assert steps == sorted(steps, reverse=True)


SAMPLES = st.builds(
    Sample,
    at_s=st.floats(0, 1e4),
    engines=st.integers(0, 20),
    ready=st.integers(0, 20),
    loss=st.none() | st.floats(0, 1),
    loss_with_one_less=st.none() | st.floats(0, 1),
    requests=st.integers(0, 2),
    all_gateways_tell=st.booleans(),
)


@given(samples=st.lists(SAMPLES, max_size=20), scaling=st.sampled_from([SCALING, SLEEPY]))
def test_always_within_the_limits_and_never_down_by_more_than_one(samples: list[Sample], scaling: Scaling) -> None:
    state = ScalingState()
    for each in sorted(samples, key=lambda one: one.at_s):
        decision = decide(scaling, state, each)
        state = decision.state
        assert scaling.min_engines <= decision.engines <= scaling.max_engines
        within = min(max(each.engines, scaling.min_engines), scaling.max_engines)
        assert decision.engines >= within - each.all_gateways_tell
        if decision.engines == 0 < each.engines:
            assert each.requests == 0


def test_only_losses_that_an_engine_would_prevent_count() -> None:
    totals = GainTotals(earnable=10.0, earned=5.0, lost={LossCause.SHED: 2.0, LossCause.CLIENT_CANCEL: 3.0})
    assert capacity_loss(totals) == pytest.approx(0.2)
    assert capacity_loss(GainTotals()) == 0.0


def row(**changes: object) -> RequestRow:
    usual = RequestRow(
        id="r", priority_class="high", weight=2.0, first_token_gain=3.0, output_token_gain=1.0, tpot_s=0.05,
        decoding=True, resident=True, prefill_tokens=0, context_tokens=100, emitted_tokens=1, deadline_in_s=0.05,
    )  # fmt: skip
    return msgspec.structs.replace(usual, **changes)


def snapshot(*rows: RequestRow, free_blocks: int = 900) -> CapacitySnapshot:
    """An engine whose steps take 1 ms and another for each sequence."""
    latency = LatencyModel(
        host_s=0.001, floor_s=0.0, linear_base_s=0.0, linear_token_s=0.0, attention_s=0.0, context_s=0.0,
        sequence_s=0.001,
    )  # fmt: skip
    return CapacitySnapshot(
        seq=1, engine_id="e", model="m", policy="p", age_s=0.0, block_size=16, blocks=1000, free_blocks=free_blocks,
        running=len(rows), waiting=0, max_sequences=256, max_step_tokens=2048, latency=latency, rows=rows,
    )  # fmt: skip


def test_idle_engines_would_not_be_missed() -> None:
    assert loss_with_one_less([snapshot(), snapshot()]) == 0.0
    assert loss_with_one_less([snapshot(row()), snapshot()]) == 0.0


def test_nobody_can_tell_what_the_only_engine_would_cost() -> None:
    assert loss_with_one_less([snapshot()]) is None


def test_requests_that_would_get_tokens_too_slowly_would_be_lost() -> None:
    # Steps take 31 ms now and would take 61 ms: beyond 50 ms for half of the gain.
    patient = [row(tpot_s=0.1)] * 15
    engines = [snapshot(*[row()] * 15, *patient)] * 2
    assert loss_with_one_less(engines) == pytest.approx(0.5)


def test_requests_that_wait_already_would_be_lost() -> None:
    waiting = row(decoding=False, resident=False, prefill_tokens=10)
    assert loss_with_one_less([snapshot(row()), snapshot(waiting)]) == pytest.approx(6.0 / 8.0)


def test_requests_without_blocks_would_be_lost() -> None:
    # 750 blocks in use would be 1,500.
    assert loss_with_one_less([snapshot(row(), free_blocks=250)] * 2) == pytest.approx(1 / 3)


def test_stake_is_what_the_next_tokens_are_worth() -> None:
    assert stake(snapshot(row(), row(decoding=False))) == pytest.approx(2.0 + 6.0)
