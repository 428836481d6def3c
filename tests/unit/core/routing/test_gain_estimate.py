"""EstimateGain: worth of a request on an engine, less what it takes from others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_builders import service_terms
from fleet_builders import capacity, decode_row, engine_view, prefill_row, routing_request
from proserve_core.capacity import CapacitySnapshot, RequestRow
from proserve_core.routing import FleetView, RoutingRequest
from proserve_core.routing.estimate import FleetEstimator
from proserve_core.routing.gain_estimate import GainEstimate, QueueForecast

FIRST_ONLY = service_terms(output_token_gain=0.0)


def first_only(weight: float = 1.0, ttft_s: float = 1.0) -> RoutingRequest:
    return routing_request(100, terms=service_terms(weight, ttft_s=ttft_s, output_token_gain=0.0))


def estimate(snapshot: CapacitySnapshot, request: RoutingRequest, now_s: float = 0.0) -> GainEstimate:
    view = engine_view("a", snapshot)
    engine = FleetEstimator().estimates(FleetView(now_s=now_s, engines=[view]))[0]
    return QueueForecast(engine).estimate(request, now_s)


def test_idle_engine_gives_all_of_it() -> None:
    result = estimate(capacity(), first_only(weight=3.0))
    assert result.delta == 3.0
    assert result.first_token_s == pytest.approx(0.1)


def test_hopeless_request_adds_nothing_and_takes_nothing() -> None:
    assert estimate(capacity(prefill_row(900)), first_only(ttft_s=0.05)).delta == 0.0


def test_request_goes_ahead_of_later_deadlines() -> None:
    result = estimate(capacity(prefill_row(500, due_s=2.0)), first_only(ttft_s=0.2))
    assert result.delta == 1.0
    assert result.first_token_s == pytest.approx(0.1)


def test_gain_of_those_pushed_over_their_deadline_is_taken_off() -> None:
    """150 ms of work, then 100 ms: only one can be done by 200 ms."""
    snapshot = capacity(prefill_row(150, due_s=0.2, weight=1.0))
    assert estimate(snapshot, first_only(weight=4.0, ttft_s=0.2)).delta == 3.0
    assert estimate(snapshot, first_only(weight=0.5, ttft_s=0.2)).delta <= 0.0


def test_work_done_by_now_is_not_pushed() -> None:
    snapshot = capacity(prefill_row(150, due_s=0.16))
    assert estimate(snapshot, first_only(weight=1.0, ttft_s=0.11), now_s=0.0).delta <= 0.0
    assert estimate(snapshot, routing_request(100, arrival_s=0.155, terms=FIRST_ONLY), now_s=0.155).delta == 1.0


def test_late_work_in_front_does_not_delay_the_newcomer_on_a_reordering_engine() -> None:
    late = [prefill_row(2000, due_s=-1.0)]
    assert estimate(capacity(*late), first_only()).delta == 1.0
    assert estimate(capacity(*late, policy="fcfs"), first_only()).delta == 0.0


def test_fcfs_engine_serves_the_newcomer_last() -> None:
    result = estimate(capacity(prefill_row(950, due_s=9.0), policy="fcfs"), first_only(weight=5.0))
    assert result.first_token_s == pytest.approx(1.05)
    assert result.delta == 0.0


def test_priority_engine_serves_by_weight() -> None:
    snapshot = capacity(
        prefill_row(500, weight=2.0, due_s=9.0), prefill_row(400, weight=1.0, due_s=0.95), policy="priority"
    )
    assert estimate(snapshot, first_only(weight=2.0)).first_token_s == pytest.approx(0.6)
    assert estimate(snapshot, first_only(weight=2.0)).delta == 1.0
    assert estimate(snapshot, first_only(weight=0.5)).first_token_s == pytest.approx(1.0)


def test_decode_that_fits_the_step_is_worth_a_token() -> None:
    assert estimate(capacity(), routing_request(100)).delta == 2.0


def test_one_decode_too_many_costs_the_others_theirs() -> None:
    """1 ms per decode: the 51st makes steps longer than 50 ms."""
    rows = [decode_row(index) for index in range(50)]
    assert estimate(capacity(*rows[:49]), first_only(ttft_s=60)).delta == 1.0
    assert estimate(capacity(*rows), first_only(ttft_s=60)).delta == 1.0 - 50.0


dues = st.floats(0.01, 3).map(lambda value: round(value, 3) + 0.0005)
"""Half a millisecond apart from any finish, so that no rounding decides who is late."""
queues = st.lists(
    st.builds(
        prefill_row,
        st.integers(1, 400),
        due_s=st.one_of(dues, st.just(-0.2)),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
    ),
    max_size=12,
)


@given(rows=queues, tokens=st.integers(1, 400), weight=st.sampled_from([0.5, 1.0, 4.0]), ttft_s=dues)
def test_shortcuts_give_what_scheduling_both_queues_gives(
    rows: list[RequestRow], tokens: int, weight: float, ttft_s: float
) -> None:
    """Against the definition: gain of the better order with the request minus gain of the better one without."""
    work = [(row.deadline_in_s, row.prefill_tokens * 1e-3, row.weight) for row in rows]
    new = (ttft_s, tokens * 1e-3, weight)

    def earned(queue: list[tuple[float, float, float]]) -> float:
        def hopeless(item: tuple[float, float, float]) -> bool:
            return item[1] >= item[0]

        best = 0.0
        by_deadline = sorted(queue, key=lambda item: (hopeless(item), item[0]))
        by_density = sorted(queue, key=lambda item: (hopeless(item), -item[2] / item[1]))
        for order in (by_deadline, by_density):
            at_s = total = 0.0
            for due_s, cost_s, gain in order:
                at_s += cost_s
                total += gain if at_s < due_s - 1e-9 else 0.0
            best = max(best, total)
        return best

    request = routing_request(tokens, terms=service_terms(weight, ttft_s=ttft_s, output_token_gain=0.0))
    assert estimate(capacity(*rows), request).delta == pytest.approx(earned([*work, new]) - earned(work))
