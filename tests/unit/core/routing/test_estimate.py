"""Snapshots age, dispatches count from when they were sent, engines without snapshots are judged with care."""

import msgspec
import pytest

from fleet_builders import MS_PER_TOKEN, capacity, decode_row, engine_view, prefill_row, routing_request, sent
from proserve_core.capacity import ClassTotals
from proserve_core.latency.calibrations import load_calibration
from proserve_core.routing import EngineView, FleetView
from proserve_core.routing.engine_profile import NOMINAL_CALIBRATION
from proserve_core.routing.estimate import EngineEstimate, FleetEstimator


def estimate(view: EngineView, *others: EngineView, now_s: float = 0.0) -> EngineEstimate:
    return FleetEstimator().estimates(FleetView(now_s=now_s, engines=[view, *others]))[0]


def test_queue_drains_as_time_passes() -> None:
    view = engine_view("a", capacity(prefill_row(200), prefill_row(300)), snapshot_s=10.0)
    assert [estimate(view).drain_s(now_s) for now_s in (10.0, 10.4, 11.0)] == pytest.approx([0.5, 0.1, 0.0])


def test_running_step_has_worked_on_the_rows_since_it_began() -> None:
    snapshot = capacity(prefill_row(500), step_age_s=0.2, step_predicted_s=0.5)
    assert estimate(engine_view("a", snapshot, snapshot_s=10.0)).drain_s(10.0) == pytest.approx(0.3)


def test_new_request_waits_for_the_running_step() -> None:
    snapshot = capacity(decode_row(100), step_age_s=0.010, step_predicted_s=0.030)
    assert estimate(engine_view("a", snapshot, snapshot_s=10.0)).begin_s(10.0) == pytest.approx(10.020)


def test_dispatch_since_the_snapshot_adds_its_work_from_when_it_was_sent() -> None:
    request = routing_request(300, name="r", arrival_s=14.9)
    view = engine_view("a", capacity(), sent(request, at_s=15.0), snapshot_s=10.0)
    assert estimate(view).end_s == pytest.approx(15.3)


def test_dispatch_that_a_later_snapshot_does_not_show_has_not_begun() -> None:
    request = routing_request(300, name="r", arrival_s=14.9)
    view = engine_view("a", capacity(), sent(request, at_s=15.0), snapshot_s=15.2)
    assert estimate(view).end_s == pytest.approx(15.5)


def test_dispatch_that_the_snapshot_counts_is_not_counted_twice() -> None:
    request = routing_request(300, name="r")
    view = engine_view("a", capacity(prefill_row(300)), sent(request, counted=True))
    assert estimate(view).drain_s(0.0) == pytest.approx(0.3)


def test_decodes_stretch_prefills() -> None:
    """10 decodes of 1 ms in each 50 ms leave 80% of the time to prefills."""
    rows = [decode_row(index) for index in range(10)]
    view = engine_view("a", capacity(*rows, prefill_row(400)))
    assert estimate(view).drain_s(0.0) == pytest.approx(0.5)


def test_prefills_keep_a_tenth_of_the_time_whatever_decodes_there_are() -> None:
    rows = [decode_row(index) for index in range(100)]
    assert estimate(engine_view("a", capacity(*rows, prefill_row(100)))).drain_s(0.0) == pytest.approx(1.0)


def test_each_step_of_a_long_prompt_costs_its_constant() -> None:
    latency = msgspec.structs.replace(MS_PER_TOKEN, host_s=0.010)
    assert estimate(engine_view("a", capacity(prefill_row(10_000), latency=latency))).drain_s(0.0) == pytest.approx(
        10.02
    )


def test_queued_and_sent_requests_take_blocks_and_slots() -> None:
    request = routing_request(31, name="r")
    view = engine_view("a", capacity(prefill_row(160), free_blocks=20, max_sequences=3), sent(request))
    result = estimate(view)
    assert result.free_blocks == 20 - 10 - 2
    assert result.free_sequences == 1
    assert result.fits(routing_request(127))
    assert not result.fits(routing_request(128))


def test_requests_beyond_the_rows_count_as_load() -> None:
    snapshot = msgspec.structs.replace(
        capacity(prefill_row(100)),
        waiting=5,
        rows_truncated=True,
        classes={"low": ClassTotals(waiting=5, prefill_tokens=900)},
    )
    assert estimate(engine_view("a", snapshot)).drain_s(0.0) == pytest.approx(0.9)


def test_estimate_follows_new_snapshots_and_dispatches() -> None:
    estimator, view = FleetEstimator(), engine_view("a", capacity(prefill_row(100)))

    def drain_s() -> float:
        return estimator.estimates(FleetView(now_s=0.0, engines=[view]))[0].drain_s(0.0)

    assert drain_s() == pytest.approx(0.1)
    view.dispatched["r"] = sent(routing_request(50, name="r"))
    assert drain_s() == pytest.approx(0.15)
    view.snapshot = capacity(prefill_row(20), prefill_row(50))
    view.dispatched["r"].in_snapshot = True
    assert drain_s() == pytest.approx(0.07)
    del view.dispatched["r"]
    assert drain_s() == pytest.approx(0.07)


def test_without_a_snapshot_unanswered_requests_count_in_full_and_do_not_age() -> None:
    known = engine_view("k", capacity())
    view = engine_view(
        "plain",
        None,
        sent(routing_request(200, name="old"), at_s=-50.0),
        sent(routing_request(100, name="answered"), at_s=-50.0, emitted=3),
    )
    result = estimate(view, known)
    # 200 ms of prefill next to one decode of 1 ms in 50 ms.
    assert result.drain_s(0.0) == pytest.approx(0.2 * 50 / 49)
    assert result.decodes.count == 1


def test_without_a_snapshot_expected_output_already_takes_blocks() -> None:
    view = engine_view("plain", None, sent(routing_request(100, name="r", expected_output_tokens=220.0)))
    assert estimate(view, engine_view("k", capacity())).free_blocks == 20_000 - 20


def test_without_a_snapshot_speed_is_that_of_the_fleets_median_engine() -> None:
    fast = engine_view("fast", capacity(latency=load_calibration("h100-llama-3.1-8b").latency))
    medium = engine_view("medium", capacity(latency=load_calibration("a100-llama-3.1-8b").latency))
    slow = engine_view("slow", capacity(latency=MS_PER_TOKEN))
    plain = engine_view("plain", None)
    assert estimate(plain, fast, medium, slow).profile.latency == load_calibration("a100-llama-3.1-8b").latency
    assert estimate(plain, fast, slow).profile.latency == MS_PER_TOKEN
    assert estimate(plain).profile.latency == load_calibration(NOMINAL_CALIBRATION).latency


def test_what_an_engine_holds_of_the_prompt_is_not_computed_there_again() -> None:
    request = routing_request(300, cached_tokens={"a": 200})
    idle, other = engine_view("a", capacity()), engine_view("b", capacity())
    assert estimate(idle).cost_s(request) == pytest.approx(0.1)
    assert estimate(other).cost_s(request) == pytest.approx(0.3)
    queued = msgspec.structs.replace(sent(request), cached_tokens=200)
    assert estimate(engine_view("a", capacity(), queued)).end_s == pytest.approx(0.1)
