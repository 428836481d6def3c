"""`go-full`: gain of all tokens first, then the earliest first token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_builders import service_terms
from fleet_builders import capacity, choose, engine_view, prefill_row, queue_of, routing_request
from proserve_core.routing.go_full import GoFull
from proserve_core.routing.go_routing import GoRouting

RANKS = "recoverable-gain"


def test_engine_that_would_lose_more_gain_than_the_request_brings_is_no_candidate() -> None:
    """On a the request would be done first, but it would push another one over its deadline."""
    fragile = engine_view("a", capacity(prefill_row(500, due_s=0.51, weight=0.3), policy=RANKS))
    free = engine_view("b", capacity(prefill_row(120, weight=1e4), policy=RANKS))
    request = routing_request(100, terms=service_terms(5.0), expected_output_tokens=2)
    decision = choose(GoFull(), request, fragile, free)
    assert decision.engine == "b"
    assert decision.candidates == ("b",)


def test_a_first_token_that_is_missed_costs_little_of_a_long_output() -> None:
    """Published GoRouting takes 200 tokens of which the first is late for worthless; the repair counts all of them."""
    late = engine_view("a", capacity(prefill_row(150, due_s=9.0), policy="fcfs"))
    request = routing_request(100, terms=service_terms(ttft_s=0.2), expected_output_tokens=200)
    assert (choose(GoRouting(), request, late).expected_gain or 0.0) <= 1.0
    assert (choose(GoFull(), request, late).expected_gain or 0.0) > 190


def test_among_equal_gains_the_earliest_first_token_wins() -> None:
    assert choose(GoFull(), routing_request(10), queue_of("a", 300), queue_of("b", 100)).engine == "b"


@given(
    queues=st.lists(st.lists(st.tuples(st.integers(1, 900), st.floats(0.1, 2)), max_size=4), min_size=1, max_size=6),
    beta=st.floats(0.1, 1),
)
def test_choice_is_within_beta_of_the_best_gain(queues: list[list[tuple[int, float]]], beta: float) -> None:
    engines = [
        engine_view(f"e{index}", capacity(*(prefill_row(tokens, due_s=due_s) for tokens, due_s in queue), policy=RANKS))
        for index, queue in enumerate(queues)
    ]
    router, request = GoFull(beta=beta), routing_request(200)
    alone = {view.name: choose(router, request, view).expected_gain or 0.0 for view in engines}
    decision = choose(router, request, *engines)
    best = max(alone.values())
    assert decision.expected_gain == alone[decision.engine]
    assert best <= 0 or alone[decision.engine] >= beta * best


def test_beta_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="go-full beta 0 is out of range"):
        GoFull(beta=0)
