"""A room for policies that decide at once: nothing waits, and beginnings of prompts are remembered."""

from engine_builders import service_terms
from fleet_builders import bind_all, queue_of, routing_request
from proserve_core.routing.prefix_affinity import PrefixAffinity
from proserve_core.routing.round_robin import RoundRobin
from proserve_core.routing.waiting_room import ImmediateRoom


def test_requests_are_bound_when_asked_in_order_of_arrival() -> None:
    room, engines = ImmediateRoom(RoundRobin()), [queue_of("a", 0), queue_of("b", 0)]
    for name in ("first", "second", "third"):
        room.arrived(routing_request(10, name=name))
    bound = bind_all(room, engines)
    assert [(binding.request.id, binding.decision.engine) for binding in bound] == [
        ("first", "a"),
        ("second", "b"),
        ("third", "a"),
    ]
    assert len(room) == 0
    assert bind_all(room, engines) == []


def test_request_that_left_is_not_bound() -> None:
    room = ImmediateRoom(RoundRobin())
    room.arrived(routing_request(10, name="gone"))
    assert room.left("gone")
    assert not room.left("gone")
    assert bind_all(room, [queue_of("a", 0)]) == []


def test_what_was_sent_somewhere_is_a_hit_there() -> None:
    room, engines = ImmediateRoom(PrefixAffinity()), [queue_of("a", 0), queue_of("b", 0)]
    for number, name in enumerate(("first", "second")):
        room.arrived(routing_request(2000, name=name, terms=service_terms(ttft_s=60), prefix_blocks=(7, 8, number)))
    first, second = bind_all(room, engines)
    assert (first.cached_tokens, second.cached_tokens) == (0, 1024)
    assert first.decision.engine == second.decision.engine


def test_engines_that_are_gone_are_forgotten_before_they_are_many() -> None:
    room = ImmediateRoom(RoundRobin())
    for number in range(20):
        room.arrived(routing_request(2000, name=f"r{number}", prefix_blocks=(7,)))
        bind_all(room, [queue_of(f"engine-{number}", 0)])
    room.arrived(routing_request(2000, name="last", prefix_blocks=(7,)))
    (binding,) = bind_all(room, [queue_of("engine-19", 0)])
    assert set(binding.request.cached_tokens) <= {"engine-18", "engine-19"}
    assert binding.cached_tokens == 512
