"""`power-of-two` looks at two engines only."""

from fleet_builders import capacity, choose, decode_row, engine_view, routing_request
from proserve_core.routing.power_of_two import PowerOfTwo


def test_emptier_one_of_two_different_engines_is_chosen() -> None:
    engines = [engine_view(f"e{count}", capacity(*(decode_row(row + 1) for row in range(count)))) for count in range(5)]
    for number in range(200):
        decision = choose(PowerOfTwo(), routing_request(1, name=f"r{number}"), *engines)
        assert len(set(decision.candidates)) == 2
        assert decision.engine == min(decision.candidates)


def test_fullest_engine_is_never_chosen_and_the_emptiest_twice_as_often_as_its_share() -> None:
    engines = [engine_view(f"e{count}", capacity(*(decode_row(row + 1) for row in range(count)))) for count in range(4)]
    chosen = [choose(PowerOfTwo(), routing_request(1, name=f"r{number}"), *engines).engine for number in range(2000)]
    assert chosen.count("e3") == 0
    assert 900 < chosen.count("e0") < 1100


def test_one_engine_is_enough() -> None:
    assert choose(PowerOfTwo(), routing_request(1), engine_view("a", None)).engine == "a"
