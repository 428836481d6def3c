"""`prefix-affinity`: the engine that holds the prefix, unless it is much busier than another."""

import pytest

from engine_builders import service_terms
from fleet_builders import choose, queue_of, routing_request
from proserve_core.routing.prefix_affinity import PrefixAffinity


def test_longest_hit_wins() -> None:
    request = routing_request(1000, cached_tokens={"b": 200, "c": 600})
    decision = choose(PrefixAffinity(), request, queue_of("a", 0), queue_of("b", 0), queue_of("c", 200))
    assert decision.engine == "c"
    assert decision.reason == "longest prefix hit"
    assert decision.expected_ttft_s == pytest.approx(0.6)


def test_guard_keeps_a_popular_prefix_from_flooding_its_engine() -> None:
    request = routing_request(1000, cached_tokens={"c": 900})
    decision = choose(PrefixAffinity(), request, queue_of("a", 50), queue_of("b", 0), queue_of("c", 301))
    assert decision.engine == "b"
    assert decision.candidates == ("b", "a")
    assert decision.reason == "prefix held by an engine that is too busy or gone"


def test_guard_is_relative_to_the_first_token_objective() -> None:
    request = routing_request(100, cached_tokens={"c": 90}, terms=service_terms(ttft_s=10))
    assert choose(PrefixAffinity(), request, queue_of("b", 0), queue_of("c", 2900)).engine == "c"


def test_without_a_hit_the_least_loaded_engine_wins() -> None:
    decision = choose(PrefixAffinity(), routing_request(10), queue_of("a", 30), queue_of("b", 20))
    assert (decision.engine, decision.reason) == ("b", "least predicted drain: prefix held by none")


def test_engine_without_room_does_not_get_the_request_for_its_prefix() -> None:
    request = routing_request(100, cached_tokens={"c": 90})
    assert choose(PrefixAffinity(), request, queue_of("b", 20), queue_of("c", 0, free_blocks=1)).engine == "b"


def test_negative_guard_is_refused() -> None:
    with pytest.raises(ValueError, match="guard -1 is negative"):
        PrefixAffinity(guard=-1)
