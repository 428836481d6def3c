"""`static-partition`: classes do not meet."""

from engine_builders import service_terms
from fleet_builders import choose, engine_view, routing_request, sent
from proserve_core.routing import EngineView
from proserve_core.routing.static_partition import StaticPartition

HIGH, LOW = service_terms(2), service_terms(1)


def engines(count: int) -> list[EngineView]:
    return [engine_view(f"e{number}", None) for number in range(count)]


def test_each_class_has_its_half_the_heavy_one_first() -> None:
    router, fleet = StaticPartition(), engines(4)
    choose(router, routing_request(1, terms=LOW), *fleet)
    assert choose(router, routing_request(1, terms=HIGH), *fleet).candidates == ("e0", "e1")
    assert choose(router, routing_request(1, terms=LOW), *fleet).candidates == ("e2", "e3")


def test_a_class_alone_has_all_engines() -> None:
    assert choose(StaticPartition(), routing_request(1, terms=LOW), *engines(3)).candidates == ("e0", "e1", "e2")


def test_fewest_requests_within_the_part_and_nothing_is_lent() -> None:
    router, (a, b) = StaticPartition(), engines(2)
    choose(router, routing_request(1, terms=LOW), a, b)
    for number in range(10):
        a.dispatched[f"r{number}"] = sent(routing_request(1, name=f"r{number}"))
    assert choose(router, routing_request(1, terms=HIGH), a, b).engine == "e0"


def test_with_more_classes_than_engines_the_light_ones_share() -> None:
    router, fleet = StaticPartition(), engines(2)
    chosen = [choose(router, routing_request(1, terms=service_terms(weight)), *fleet).engine for weight in (3, 2, 1, 3)]
    assert chosen[1:] == ["e1", "e1", "e0"]
