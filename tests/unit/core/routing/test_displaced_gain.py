"""What others lose if an engine takes one request more."""

import pytest

from engine_builders import service_terms
from fleet_builders import capacity, decode_row, engine_view, prefill_row, routing_request
from proserve_core.capacity import CapacitySnapshot
from proserve_core.routing import FleetView, RoutingRequest
from proserve_core.routing.displaced_gain import displaced_gain
from proserve_core.routing.fleet_outlook import FleetOutlook, meet_one
from proserve_core.routing.request_worth import worth_of


def displaced(snapshot: CapacitySnapshot, request: RoutingRequest) -> float:
    outlook = FleetOutlook()
    outlook.refresh(FleetView(now_s=0.0, engines=[engine_view("a", snapshot)]))
    worth = worth_of(request)
    needs = meet_one(outlook, request, worth, 0.0).needs
    return displaced_gain(worth, outlook.engines[0], needs, 0, request.prompt_tokens)


DENSE = routing_request(100, terms=service_terms(100.0), expected_output_tokens=10)


def test_idle_engine_loses_nothing() -> None:
    assert displaced(capacity(policy="recoverable-gain"), DENSE) == 0.0


def test_work_that_stays_in_time_loses_nothing() -> None:
    assert displaced(capacity(prefill_row(500, due_s=0.61), policy="recoverable-gain"), DENSE) == 0.0


def test_work_that_becomes_late_loses_its_first_tokens() -> None:
    """Done at 0.6 instead of 0.5, due at 0.545: with 50 ms tokens and instant steps two tokens of 128 are missed."""
    lost = displaced(capacity(prefill_row(500, due_s=0.545), policy="recoverable-gain"), DENSE)
    assert lost == pytest.approx(128 - 128 * 2.718281828 ** (-2 / 128))


def test_dead_work_has_nothing_to_lose() -> None:
    assert displaced(capacity(prefill_row(500, due_s=-1e4), policy="recoverable-gain"), DENSE) == 0.0


def test_engine_that_serves_in_order_of_arrival_delays_nobody() -> None:
    assert displaced(capacity(prefill_row(500, due_s=0.55), policy="fcfs"), DENSE) == 0.0


def test_decode_that_does_not_fit_any_more_displaces_others() -> None:
    """1 ms each in 50 ms: 47 decodes are below a load of 0.95, one more is above it by half its own load."""
    rows = [decode_row(10 + row) for row in range(47)]
    light = routing_request(100, terms=service_terms(ttft_s=5), expected_output_tokens=10)
    assert displaced(capacity(*rows[:46], policy="fcfs"), light) == 0.0
    density = 10 / (0.1 + 0.01)
    assert displaced(capacity(*rows, policy="fcfs"), light) == pytest.approx(0.7 * 0.5 * 0.01 * density)
