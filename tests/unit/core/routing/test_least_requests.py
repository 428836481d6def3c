"""`least-requests` counts what runs, what waits and what was sent since."""

from fleet_builders import capacity, choose, decode_row, engine_view, prefill_row, routing_request, sent
from proserve_core.routing.least_requests import LeastRequests


def test_running_waiting_and_sent_requests_count_alike() -> None:
    running = engine_view("a", capacity(decode_row(10), decode_row(20), decode_row(30)))
    waiting = engine_view("b", capacity(prefill_row(5000), prefill_row(6000)))
    plain = engine_view("c", None, *(sent(routing_request(1, name=f"r{index}")) for index in range(4)))
    assert choose(LeastRequests(), routing_request(1), running, waiting, plain).engine == "b"


def test_request_that_a_snapshot_counts_is_not_counted_twice() -> None:
    counted = engine_view("a", capacity(prefill_row(10)), sent(routing_request(10, name="x"), counted=True))
    since = engine_view("b", capacity(prefill_row(10)), sent(routing_request(10, name="y")))
    assert choose(LeastRequests(), routing_request(1), since, counted).engine == "a"


def test_ties_go_to_the_name() -> None:
    assert choose(LeastRequests(), routing_request(1), engine_view("b", None), engine_view("a", None)).engine == "a"
