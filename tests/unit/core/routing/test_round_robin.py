"""Round robin takes turns by name."""

from fleet_builders import choose, engine_view, routing_request
from proserve_core.routing.round_robin import RoundRobin


def test_engines_take_turns() -> None:
    router = RoundRobin()
    engines = [engine_view(name, None) for name in ("c", "a", "b")]
    assert [choose(router, routing_request(1), *engines).engine for _ in range(4)] == ["a", "b", "c", "a"]


def test_turn_goes_on_when_engines_come_and_go() -> None:
    router = RoundRobin()
    a, b, c, d = (engine_view(name, None) for name in "abcd")
    assert choose(router, routing_request(1), a, b, c).engine == "a"
    assert choose(router, routing_request(1), a, c, d).engine == "c"
    assert choose(router, routing_request(1), a, b).engine == "a"
