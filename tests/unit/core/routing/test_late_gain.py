"""`late-gain`: requests wait in gain order and go to an engine when it has room."""

import pytest

from engine_builders import service_terms
from fleet_builders import bind_all, capacity, decode_row, engine_view, prefill_row, queue_of, routing_request, sent
from proserve_core.admission.headroom import HeadroomBook
from proserve_core.objectives import Headroom, HeadroomMode, PriorityClass, ServiceTerms
from proserve_core.routing import EngineView, RoutingRequest
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


def test_request_that_comes_back_as_another_class_before_the_next_ranking_is_what_it_is_then() -> None:
    room = room_with(("r", 100, HIGH))
    busy = engine_view("x", capacity(prefill_row(400, due_s=9.0), policy="fcfs"))
    assert bound(room, busy) == []
    assert room.left("r")
    room.arrived(routing_request(100, name="r", terms=LOW))
    (binding,) = bind_all(room, [queue_of("y", 0)])
    assert binding.request.terms == LOW
    assert len(room) == 0


def test_request_that_was_hopeless_is_judged_anew_when_it_comes_back() -> None:
    late = routing_request(100, name="late", terms=service_terms(1.0, ttft_s=0.05), expected_output_tokens=1)
    room = room_with(("first", 3000, HIGH))
    room.arrived(late)
    bound(room, engine_view("x", capacity(prefill_row(4000, weight=100, due_s=9.0), policy="fcfs")))
    assert room.hopeless() == ["late"]
    assert room.left("late")
    room.arrived(routing_request(100, name="late", terms=HIGH))
    assert room.hopeless() == []


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


@pytest.mark.parametrize(("others", "expected"), [(0, ["r"]), (1, [])])
def test_gateways_that_send_to_the_same_engines_fill_them_together(others: int, expected: list[str]) -> None:
    """Where half of the requests come from elsewhere, half the depth is left."""
    room = LateGain()
    rows = [decode_row(10 + row) for row in range(others)]
    for number in range(200):
        room.arrived(routing_request(10, name=f"before-{number}", arrival_s=number, terms=LOW))
        bound(room, engine_view("x", capacity(*rows), snapshot_s=number), now_s=number)
    room.arrived(routing_request(10, name="r", arrival_s=200, terms=LOW))
    busy = engine_view("x", capacity(prefill_row(200, due_s=9.0), policy="fcfs"), snapshot_s=200)
    assert [name for name, _ in bound(room, busy, now_s=200)] == expected


def test_engine_where_others_would_lose_more_is_avoided() -> None:
    fragile = engine_view("a", capacity(prefill_row(250, due_s=0.26, weight=0.5), policy="recoverable-gain"))
    free = engine_view("b", capacity(prefill_row(100, weight=1e4), policy="recoverable-gain"))
    room = LateGain()
    room.arrived(routing_request(100, name="r", terms=service_terms(5.0, ttft_s=5), expected_output_tokens=5))
    assert bound(room, fragile, free) == [("r", "b")]


def test_what_an_engine_holds_delays_the_tightest_class_by_a_part_of_its_ttft_only() -> None:
    """0.3 s of prompts would be three TTFTs of the class that may come next."""
    room = room_with(
        *((f"low-{number}", 40, LOW) for number in range(6)), ("tight", 40, service_terms(2.0, ttft_s=0.2))
    )
    names = [name for name, _ in bound(room, queue_of("x", 0, policy="fcfs"))]
    assert len(names) == 2
    assert "tight" in names


def test_patient_decodes_leave_steps_short_enough_for_the_tightest_class() -> None:
    """A token of each of 60 streams takes 60 ms, whatever those streams may wait."""
    rows = [decode_row(10 + row, tpot_s=1.0) for row in range(60)]
    patient, tight = service_terms(ttft_s=5.0, tpot_s=1.0), service_terms(2.0, ttft_s=5.0, tpot_s=0.05)
    for terms, expected in (([patient], ["r0"]), ([patient, tight], [])):
        room = room_with(*((f"r{number}", 20, each) for number, each in enumerate(terms)))
        names = [name for name, _ in bound(room, engine_view("x", capacity(*rows, policy="fcfs")))]
        assert names == expected


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
    rows = [decode_row(10 + row, due_s=9.0) for row in range(25)]
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


def too_late(tokens: int) -> RoutingRequest:
    """A request that has waited for too long."""
    return routing_request(tokens, name="late", arrival_s=-1000.0, terms=LOW)


def test_request_that_is_too_late_goes_only_where_nothing_else_is_to_be_done() -> None:
    room = room_with()
    room.arrived(too_late(100))
    assert bound(room, queue_of("x", 50)) == []
    assert len(room) == 1
    assert bound(room, queue_of("x", 50), queue_of("y", 0), now_s=0.1) == [("late", "y")]


def test_too_late_requests_make_progress_in_any_overload() -> None:
    room = room_with()
    room.arrived(too_late(10))
    served: list[str] = []
    for number in range(300):
        now_s = number * 0.1
        room.arrived(routing_request(100, name=f"r{number}", arrival_s=now_s, terms=HIGH))
        snapshot = capacity(prefill_row(100, weight=1e6, due_s=9), policy="fcfs")
        busy = engine_view("x", snapshot, sent(routing_request(100, name="own"), counted=True), snapshot_s=now_s)
        served += [name for name, _ in bound(room, busy, now_s=now_s)]
    assert "late" in served
    assert len(served) == 301


def test_too_late_requests_are_served_in_turns_by_class_and_then_tenant() -> None:
    room = LateGain()
    asked = [(f"flood-{number}", "flood", LOW) for number in range(30)]
    asked += [(f"modest-{number}", "modest", LOW) for number in range(2)]
    asked += [(f"high-{number}", "other", HIGH) for number in range(2)]
    for name, tenant, terms in asked:
        room.arrived(routing_request(10, name=name, arrival_s=-1000.0, tenant=tenant, terms=terms))
    served = [name for number in range(6) for name, _ in bound(room, queue_of("x", 0), now_s=number * 0.1)]
    assert set(served[:4]) == {"flood-0", "modest-0", "high-0", "high-1"}
    assert served[4:] == ["flood-1", "modest-1"]


def test_request_that_left_is_not_bound() -> None:
    room = room_with(("a", 10, LOW), ("b", 10, LOW))
    room.arrived(too_late(10))
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


def entitlement(percent: int, mode: HeadroomMode = HeadroomMode.ENTITLEMENT) -> HeadroomBook:
    """The class of `HIGH` has headroom."""
    objectives = HIGH.objectives
    return HeadroomBook(
        [
            PriorityClass(
                name=HIGH.priority_class,
                weight=2,
                objectives=objectives,
                headroom=Headroom(percent=percent, mode=mode),
            ),
            PriorityClass(name=LOW.priority_class, weight=1, objectives=objectives),
        ]
    )


def dense_lows_and_a_long_high(room: LateGain) -> EngineView:
    """An engine that is busy, and requests of which the heavy one is worth the least per second."""
    engine = queue_of("x", 900, policy="fcfs")
    assert not bound(room, engine)
    for number in range(8):
        room.arrived(routing_request(100, name=f"low-{number}", terms=LOW))
    room.arrived(routing_request(900, name="high", terms=HIGH))
    return engine_view("x", capacity(policy="fcfs"), snapshot_s=1.0)


def test_dear_request_within_its_headroom_goes_first() -> None:
    room = room_with(("first", 100, LOW))
    assert bound(room, dense_lows_and_a_long_high(room), now_s=1.0)[0] != ("high", "x")
    lifted = LateGain(entitlement(50))
    lifted.arrived(routing_request(100, name="first", terms=LOW))
    assert bound(lifted, dense_lows_and_a_long_high(lifted), now_s=1.0)[0] == ("high", "x")


def test_weight_by_headroom_is_not_gain() -> None:
    plain, lifted = room_with(("a", 100, LOW)), LateGain(entitlement(50))
    lifted.arrived(routing_request(100, name="a", terms=LOW))
    expected = []
    for room in (plain, lifted):
        bound(room, queue_of("x", 0))
        room.arrived(routing_request(100, name="high", terms=HIGH))
        (binding,) = bind_all(room, [queue_of("x", 0)], now_s=0.1)
        expected.append(binding.decision.expected_gain)
    assert binding.request.boost > 1
    assert expected[0] == pytest.approx(expected[1])


def test_time_kept_free_is_not_given_to_a_lighter_class() -> None:
    room = LateGain(entitlement(50, HeadroomMode.RESERVE))
    sent_s = []
    for number in range(80):
        now_s = number / 10
        room.arrived(routing_request(100, name=f"low-{number}", terms=LOW, arrival_s=now_s, expected_output_tokens=1))
        idle = engine_view("x", capacity(policy="fcfs", free_blocks=20_000), snapshot_s=now_s)
        sent_s += [now_s for _ in bound(room, idle, now_s=now_s)]
    # Each takes a tenth of a second, and every tenth of a second one comes.
    assert sum(at_s >= 4.0 for at_s in sent_s) == pytest.approx(20, abs=2)
    room.arrived(routing_request(100, name="high", terms=HIGH, arrival_s=8.0))
    assert ("high", "x") in bound(room, engine_view("x", capacity(policy="fcfs"), snapshot_s=8.0), now_s=8.0)


def test_blocks_kept_free_are_not_given_to_a_lighter_class() -> None:
    tight = engine_view("x", capacity(policy="fcfs", free_blocks=8000))
    room = LateGain(entitlement(50, HeadroomMode.RESERVE))
    room.arrived(routing_request(100, name="low", terms=LOW))
    room.arrived(routing_request(100, name="high", terms=HIGH))
    assert bound(room, tight) == [("high", "x")]


def test_flooding_tenant_takes_no_turn_from_another() -> None:
    room = LateGain()
    for number in range(20):
        room.arrived(routing_request(100, name=f"flood-{number}", terms=LOW, tenant="a"))
    for number in range(2):
        room.arrived(routing_request(140, name=f"other-{number}", terms=LOW, tenant="b"))
    chosen = [name for name, _ in bound(room, queue_of("x", 0), queue_of("y", 0))]
    assert {"other-0", "other-1"} <= set(chosen)
