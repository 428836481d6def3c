"""`slo-aware`: token objective first, then least prefill time."""

from engine_builders import service_terms
from fleet_builders import capacity, choose, decode_row, engine_view, queue_of, routing_request
from proserve_core.routing.slo_aware import SloAware


def test_engine_that_would_miss_the_token_objective_is_left_out() -> None:
    """1 ms per decode: the 51st makes steps longer than 50 ms."""
    full = engine_view("a", capacity(*(decode_row(10 + row) for row in range(50))))
    decision = choose(SloAware(), routing_request(10), full, queue_of("b", 800))
    assert decision.engine == "b"
    assert decision.candidates == ("b",)


def test_least_prefill_time_among_those_that_meet_it() -> None:
    assert choose(SloAware(), routing_request(10), queue_of("a", 200), queue_of("b", 100)).engine == "b"


def test_where_the_objective_is_met_nowhere_the_shortest_steps_win() -> None:
    engines = [
        engine_view(name, capacity(*(decode_row(10 + row) for row in range(count))))
        for name, count in (("a", 60), ("b", 55))
    ]
    decision = choose(SloAware(), routing_request(10, terms=service_terms(tpot_s=0.05)), *engines)
    assert (decision.engine, decision.reason) == ("b", "least time per token: the objective is met nowhere")
