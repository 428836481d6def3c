"""GoRouting: gain first, then packing between the thresholds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_builders import service_terms
from fleet_builders import (
    capacity,
    choose,
    engine_view,
    first_token_s,
    prefill_row,
    queue_of,
    routing_request,
    sent,
)
from proserve_core.routing.go_routing import GoRouting
from proserve_core.routing.min_load import MinLoad

LONG_PROMPTS = [
    routing_request(13_200, name="R1", arrival_s=0.0, terms=service_terms(1)),
    routing_request(15_000, name="R2", arrival_s=0.05, terms=service_terms(1)),
    routing_request(24_500, name="R3", arrival_s=0.15, terms=service_terms(2)),
]


def on_time(outcome: dict[str, tuple[str, float]]) -> dict[str, bool]:
    return {request.id: outcome[request.id][1] - request.arrival_s < 1.0 for request in LONG_PROMPTS}


def test_over_balancing_example() -> None:
    """ProServe's motivation: balancing leaves no engine light enough for the long important request that comes next."""
    balanced = first_token_s(MinLoad(), LONG_PROMPTS, engines=["A", "B"], max_step_tokens=2048)
    packed = first_token_s(GoRouting(), LONG_PROMPTS, engines=["A", "B"], max_step_tokens=2048)
    assert (balanced["R1"][0], balanced["R2"][0]) == ("A", "B")
    assert on_time(balanced) == {"R1": True, "R2": True, "R3": False}
    assert {name: engine for name, (engine, _) in packed.items()} == {"R1": "A", "R2": "A", "R3": "B"}
    assert on_time(packed) == {"R1": True, "R2": True, "R3": True}


def test_idle_fleet_gets_the_least_loaded() -> None:
    decision = choose(GoRouting(), routing_request(10), queue_of("a", 150), queue_of("b", 50), queue_of("c", 100))
    assert decision.engine == "b"
    assert decision.reason == "least loaded: all candidates are lightly loaded"


def test_between_the_thresholds_the_heaviest_engine_that_is_not_overloaded_is_packed() -> None:
    decision = choose(GoRouting(), routing_request(10), queue_of("a", 0), queue_of("b", 500), queue_of("c", 850))
    assert decision.engine == "b"
    assert decision.reason == "most loaded candidate that is not overloaded"


def test_thresholds_are_relative_to_the_requests_own_objective() -> None:
    engines = queue_of("a", 0), queue_of("b", 500)
    assert choose(GoRouting(), routing_request(10, terms=service_terms(ttft_s=10)), *engines).engine == "a"
    assert choose(GoRouting(), routing_request(10, terms=service_terms(ttft_s=0.55)), *engines).engine == "a"


def test_engine_that_adds_clearly_less_gain_is_no_candidate() -> None:
    """On b the request would push a heavy one over its deadline."""
    fragile = engine_view("b", capacity(prefill_row(500, due_s=0.55, weight=3.0)))
    decision = choose(GoRouting(), routing_request(100, terms=service_terms(ttft_s=0.58)), queue_of("a", 0), fragile)
    assert decision.candidates == ("a",)
    assert decision.engine == "a"


def test_engine_without_blocks_counts_as_overloaded() -> None:
    full, busy = queue_of("full", 0, free_blocks=1), queue_of("busy", 700)
    assert choose(GoRouting(), routing_request(100), full, busy).engine == "busy"
    assert choose(GoRouting(), routing_request(100), full).reason == "least loaded: all candidates are overloaded"


def test_ties_go_to_more_free_blocks_then_to_the_name() -> None:
    a, b, c = (
        queue_of("a", 500, free_blocks=900),
        queue_of("b", 500, free_blocks=990),
        queue_of("c", 500, free_blocks=990),
    )
    assert choose(GoRouting(), routing_request(10), c, b, a).engine == "b"


loads = st.lists(st.integers(1000, 5000), min_size=1, max_size=6)


@given(loads=loads, prompt=st.integers(1, 500), valuable=st.booleans())
def test_saturated_fleet_is_routed_like_min_load(loads: list[int], prompt: int, valuable: bool) -> None:
    """Every engine is beyond the high threshold, whether or not an FCFS queue leaves the request any gain."""
    engines = [
        engine_view(f"e{index}", capacity(prefill_row(load, due_s=9), policy="slide-batching" if valuable else "fcfs"))
        for index, load in enumerate(loads)
    ]
    request = routing_request(prompt)
    assert choose(GoRouting(), request, *engines).engine == choose(MinLoad(), request, *engines).engine


@given(loads=st.lists(st.integers(0, 190), min_size=1, max_size=6))
def test_light_fleet_is_routed_to_the_least_loaded(loads: list[int]) -> None:
    engines = [queue_of(f"e{index}", load) for index, load in enumerate(loads)]
    assert choose(GoRouting(), routing_request(1), *engines).engine == f"e{loads.index(min(loads))}"


@given(
    queues=st.lists(st.lists(st.tuples(st.integers(1, 900), st.floats(0.1, 2)), max_size=4), min_size=1, max_size=4),
    beta=st.floats(0.1, 1),
)
def test_choice_is_within_beta_of_the_best_gain(queues: list[list[tuple[int, float]]], beta: float) -> None:
    engines = [
        engine_view(f"e{index}", capacity(*(prefill_row(tokens, due_s=due_s) for tokens, due_s in queue)))
        for index, queue in enumerate(queues)
    ]
    router, request = GoRouting(beta=beta), routing_request(200)
    alone = {view.name: choose(router, request, view).expected_gain or 0.0 for view in engines}
    decision = choose(router, request, *engines)
    best = max(alone.values())
    assert decision.expected_gain == alone[decision.engine]
    assert best <= 0 or alone[decision.engine] >= beta * best


def test_mixed_fleet_uses_engines_without_a_snapshot_and_does_not_flood_them() -> None:
    """40 ms of prompt every 30 ms for three engines: each kind takes a fair part, and nothing waits long."""
    router = GoRouting()
    known, plain = [queue_of("k1", 0), queue_of("k2", 0)], engine_view("p", None)
    busy_until_s = 0.0
    counts = {"k1": 0, "k2": 0, "p": 0}
    for index in range(200):
        now_s = index * 0.030
        for entry in plain.dispatched.values():
            entry.emitted_tokens = int(now_s >= entry.sent_s + 0.05)
        plain.dispatched = {k: entry for k, entry in plain.dispatched.items() if now_s < entry.sent_s + 0.5}
        for view in known:
            view.dispatched = {k: entry for k, entry in view.dispatched.items() if now_s < entry.sent_s + 0.5}
        request = routing_request(80, name=f"r{index}", arrival_s=now_s)
        decision = choose(router, request, *known, plain, now_s=now_s)
        counts[decision.engine] += 1
        view = {view.name: view for view in [*known, plain]}[decision.engine]
        view.dispatched[request.id] = sent(request)
        busy_until_s = max(busy_until_s, decision.expected_ttft_s or 0.0)
    assert min(counts.values()) >= 20
    assert busy_until_s < 1.0


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"beta": 1.5}, {"theta_low": -0.1}, {"theta_low": 0.9}])
def test_parameters_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="go-routing"):
        GoRouting(**options)
