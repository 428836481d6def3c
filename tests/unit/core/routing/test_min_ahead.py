"""`min-ahead`: earliest first token, counting only what runs before the request."""

import pytest

from engine_builders import service_terms
from fleet_builders import (
    capacity,
    choose,
    decode_row,
    engine_view,
    prefill_row,
    queue_of,
    routing_request,
)
from proserve_core.routing import ROUTERS
from proserve_core.routing.min_ahead import MinAhead
from proserve_core.routing.min_load import MinLoad


def test_backlog_that_would_run_later_does_not_count() -> None:
    """On a much waits that is dead already; min-load shuns it."""
    dead = engine_view("a", capacity(prefill_row(5000, due_s=-1e4), policy="recoverable-gain"))
    busy = engine_view("b", capacity(prefill_row(300, weight=100.0), policy="recoverable-gain"))
    assert choose(MinAhead(), routing_request(100), dead, busy).engine == "a"
    assert choose(MinLoad(), routing_request(100), dead, busy).engine == "b"


def test_prefix_hit_counts_as_time() -> None:
    request = routing_request(500, cached_tokens={"b": 400})
    decision = choose(MinAhead(), request, queue_of("a", 0), queue_of("b", 300))
    assert decision.engine == "b"
    assert decision.expected_ttft_s == pytest.approx(0.4)


def test_fewer_decodes_decide_between_engines_that_are_equally_near() -> None:
    few = engine_view("b", capacity(decode_row(10)))
    many = engine_view("a", capacity(*(decode_row(10 + row) for row in range(30))))
    assert choose(MinAhead(), routing_request(1), many, few).engine == "b"


def test_engine_with_room_comes_first() -> None:
    full, busy = queue_of("full", 0, free_blocks=2), queue_of("busy", 800)
    assert choose(MinAhead(), routing_request(100), full, busy).engine == "busy"
    assert choose(MinAhead(), routing_request(100), full).reason == "earliest first token: no engine has room"


@pytest.mark.parametrize("name", sorted(set(ROUTERS) - {"round-robin", "random", "power-of-two", "static-partition"}))
def test_idle_fleet_but_for_one_busy_engine_never_gets_that_one(name: str) -> None:
    """Holds for every policy that looks at load."""
    busy = engine_view("a", capacity(prefill_row(600), decode_row(50), policy="recoverable-gain"))
    decision = choose(ROUTERS[name](), routing_request(10, terms=service_terms(ttft_s=0.7)), busy, queue_of("b", 0))
    assert decision.engine == "b"
