"""`late-gain`: requests wait in gain order and go to an engine when it has room."""

import pytest

from engine_builders import service_terms
from fleet_builders import bind_all, capacity, decode_row, engine_view, prefill_row, queue_of, routing_request, sent
from proserve_core.objectives import ServiceTerms
from proserve_core.routing import EngineView
from proserve_core.routing.late_gain import LateGain


def room_with(*requests: tuple[str, int, ServiceTerms]) -> LateGain:
    room = LateGain()
    for name, tokens, terms in requests:
        room.arrived(routing_request(tokens, name=name, terms=terms))
    return room


def bound(room: LateGain, *engines: EngineView, now_s: float = 0.0) -> list[tuple[str, str]]:
    return [(item.request.id, item.decision.engine) for item in bind_all(room, engines, now_s=now_s)]


HIGH, LOW = service_terms(2.0, ttft_s=5.0), service_terms(1.0, ttft_s=5.0)


def test_idle_engines_get_requests_at_once() -> None:
    room = room_with(("a", 100, HIGH), ("b", 100, LOW))
    assert sorted(bound(room, queue_of("x", 0), queue_of("y", 0))) == [("a", "x"), ("b", "y")]
    assert len(room) == 0


def test_hopeless_request_that_fills_most_of_an_idle_engine_is_not_left_waiting() -> None:
    assert bound(room_with(("r", 150_000, LOW)), queue_of("x", 0)) == [("r", "x")]


def test_engine_gets_no_more_than_it_will_do_next_and_the_rest_waits() -> None:
    room = room_with(*((f"r{number}", 200, LOW) for number in range(6)))
    assert len(bound(room, queue_of("x", 0, policy="fcfs"))) == 2
    assert len(room) == 4


def test_heavier_request_that_comes_later_goes_first() -> None:
    room, engine = room_with(*((f"low-{number}", 200, LOW) for number in range(6))), queue_of("x", 0)
    bound(room, engine)
    room.arrived(routing_request(200, name="high", arrival_s=0.1, terms=HIGH))
    done = engine_view("x", capacity(), snapshot_s=0.5)
    assert bound(room, done, now_s=0.5)[0] == ("high", "x")


def test_nothing_is_sent_while_all_engines_have_enough_to_do() -> None:
    room = room_with(("r", 100, LOW))
    busy = engine_view("x", capacity(prefill_row(400, due_s=9.0), policy="fcfs"))
    assert bound(room, busy) == []
    assert bound(room, busy, now_s=0.2) == [("r", "x")]


def test_dense_request_passes_what_an_engine_that_ranks_would_do_later_anyway() -> None:
    queue = [prefill_row(3000, due_s=9.0, weight=0.01)]
    assert bound(room_with(("r", 100, HIGH)), engine_view("x", capacity(*queue, policy="recoverable-gain")))
    assert not bound(room_with(("r", 100, HIGH)), engine_view("x", capacity(*queue, policy="fcfs")))


def test_stale_snapshot_makes_an_engine_deeper() -> None:
    """What it may have done since must not leave it idle."""
    queue = [prefill_row(900, due_s=9.0)]
    view = engine_view("x", capacity(*queue, policy="fcfs"), snapshot_s=0.0)
    assert not bound(room_with(("r", 100, LOW)), view, now_s=0.25)
    assert bound(room_with(("r", 100, LOW)), view, now_s=0.35)


def test_engine_where_others_would_lose_more_is_avoided() -> None:
    fragile = engine_view("a", capacity(prefill_row(250, due_s=0.26, weight=0.5), policy="recoverable-gain"))
    free = engine_view("b", capacity(prefill_row(100, weight=1e4), policy="recoverable-gain"))
    room = LateGain()
    room.arrived(routing_request(100, name="r", terms=service_terms(5.0, ttft_s=5), expected_output_tokens=5))
    assert bound(room, fragile, free) == [("r", "b")]


def after_many(prompt_tokens: int, expected_output_tokens: float) -> LateGain:
    """A room that has bound many requests of a kind, so that it knows how their work is made up."""
    room = LateGain()
    for number in range(100):
        room.arrived(
            routing_request(
                prompt_tokens,
                name=f"before-{number}",
                expected_output_tokens=expected_output_tokens,
                arrival_s=number * 60.0,
                terms=service_terms(ttft_s=60),
            )
        )
        assert bound(room, queue_of("idle", 0), now_s=number * 60.0)
    return room


def test_stock_engine_keeps_time_for_prompts() -> None:
    """It runs all its decodes in each step: with more of them, prompts would make tokens late."""
    room, now_s = after_many(20, 100), 1e4
    room.arrived(routing_request(20, name="r", terms=LOW, arrival_s=now_s))
    rows = [decode_row(10 + row) for row in range(46)]
    assert not bound(room, engine_view("x", capacity(*rows, policy="fcfs"), snapshot_s=now_s), now_s=now_s)
    ranks = engine_view("x", capacity(*rows, policy="recoverable-gain"), snapshot_s=now_s)
    assert bound(room, ranks, now_s=now_s)


def test_stock_engine_gets_prompts_no_faster_than_its_decodes_leave_time_for_them() -> None:
    """25 decodes leave half the time; it has computed what it got, and may have 0.3 s of it every 0.3 s."""
    assert paced(own=25) == [3, 1, 1, 1, 1]


def test_pace_leaves_time_for_what_other_gateways_send_to_a_stock_engine() -> None:
    """Half of its requests are not from here."""
    assert sum(paced(own=12)) == 4


def paced(*, own: int) -> list[int]:
    """Requests bound every 0.1 s to an engine with 25 decodes, of which so many came from here."""
    rows = [decode_row(10 + row) for row in range(25)]
    room = room_with(*((f"r{number}", 50, LOW) for number in range(20)))
    counts = []
    for number in range(5):
        decodes = [sent(routing_request(10, name=f"d{row}"), emitted=1, counted=True) for row in range(own)]
        engine = engine_view("x", capacity(*rows, policy="fcfs"), *decodes, snapshot_s=number * 0.1)
        counts.append(len(bound(room, engine, now_s=number * 0.1)))
    return counts


def test_idle_stock_engine_gets_even_a_request_that_is_all_prompt() -> None:
    room = LateGain()
    room.arrived(routing_request(900, name="r", expected_output_tokens=1))
    assert bound(room, queue_of("x", 0, policy="fcfs")) == [("r", "x")]


HOPELESS = service_terms(1.0, ttft_s=-100.0)


def test_request_that_is_too_late_goes_only_where_nothing_else_is_to_be_done() -> None:
    room = room_with(("late", 100, HOPELESS))
    assert bound(room, queue_of("x", 50)) == []
    assert len(room) == 1
    assert bound(room, queue_of("x", 50), queue_of("y", 0), now_s=0.1) == [("late", "y")]


def test_too_late_requests_make_progress_in_any_overload() -> None:
    room = room_with(("late", 10, HOPELESS))
    served: list[str] = []
    for number in range(300):
        now_s = number * 0.1
        room.arrived(routing_request(100, name=f"r{number}", arrival_s=now_s, terms=HIGH))
        snapshot = capacity(prefill_row(100, weight=1e6, due_s=9), policy="fcfs")
        busy = engine_view("x", snapshot, sent(routing_request(100, name="own"), counted=True), snapshot_s=now_s)
        served += [name for name, _ in bound(room, busy, now_s=now_s)]
    assert "late" in served
    assert len(served) == 301


def test_request_that_left_is_not_bound() -> None:
    room = room_with(("a", 10, LOW), ("late", 10, HOPELESS), ("b", 10, LOW))
    assert room.left("a")
    assert not room.left("a")
    assert bound(room, queue_of("x", 900)) == []
    assert room.left("late")
    assert bound(room, queue_of("x", 0), now_s=1.0) == [("b", "x")]


def test_decision_tells_what_is_expected() -> None:
    room = room_with(("r", 100, LOW))
    (binding,) = bind_all(room, [queue_of("x", 50)])
    assert binding.decision.expected_ttft_s == pytest.approx(0.15)
    assert binding.decision.expected_gain == pytest.approx(100)
    assert binding.decision.candidates == ("x",)
