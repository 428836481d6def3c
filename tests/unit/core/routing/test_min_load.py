"""MinLoad goes where queued prefills are done first."""

from fleet_builders import MS_PER_TOKEN, capacity, choose, decode_row, engine_view, queue_of, routing_request, sent
from proserve_core.latency.calibrations import load_calibration
from proserve_core.routing.min_load import MinLoad


def test_least_drain_wins_and_the_reason_says_so() -> None:
    decision = choose(MinLoad(), routing_request(10), queue_of("a", 300), queue_of("b", 120), queue_of("c", 500))
    assert decision.engine == "b"
    assert decision.reason == "least predicted drain"
    assert decision.expected_ttft_s == 0.13


def test_ties_go_to_more_free_blocks_then_to_the_name() -> None:
    a, b, c = queue_of("a", 0, free_blocks=10), queue_of("b", 0, free_blocks=20), queue_of("c", 0, free_blocks=20)
    assert choose(MinLoad(), routing_request(1), c, b, a).engine == "b"


def test_engine_without_blocks_for_the_request_comes_last() -> None:
    full, busy = queue_of("full", 0, free_blocks=2), queue_of("busy", 800)
    assert choose(MinLoad(), routing_request(100), full, busy).engine == "busy"
    assert choose(MinLoad(), routing_request(20), full, busy).engine == "full"
    assert choose(MinLoad(), routing_request(100), full).reason == "least predicted drain: no engine has room"


def test_engine_without_a_sequence_slot_comes_last() -> None:
    rows = [decode_row(10 + index) for index in range(4)]
    full = engine_view("full", capacity(*rows, max_sequences=4))
    assert choose(MinLoad(), routing_request(10), full, queue_of("busy", 800)).engine == "busy"


def test_slower_engine_with_fewer_tokens_loses() -> None:
    fast = engine_view("fast", capacity(latency=load_calibration("h100-llama-3.1-8b").latency))
    slow = engine_view("slow", capacity(latency=MS_PER_TOKEN))
    fast.dispatched["x"] = sent(routing_request(2000, name="x"))
    slow.dispatched["y"] = sent(routing_request(500, name="y"))
    assert choose(MinLoad(), routing_request(10), slow, fast).engine == "fast"


def test_own_dispatches_count_at_once() -> None:
    router, engines = MinLoad(), [queue_of("a", 0), queue_of("b", 0)]
    counts = {"a": 0, "b": 0}
    for index in range(20):
        request = routing_request(50, name=f"r{index}")
        view = next(view for view in engines if view.name == choose(router, request, *engines).engine)
        view.dispatched[request.id] = sent(request)
        counts[view.name] += 1
    assert counts == {"a": 10, "b": 10}


def test_mixed_fleet_neither_starves_nor_floods_engines_without_a_snapshot() -> None:
    """Nothing finishes: every engine gets its share."""
    router = MinLoad()
    engines = [queue_of("known", 0), engine_view("plain-1", None), engine_view("plain-2", None)]
    for index in range(90):
        request = routing_request(50, name=f"r{index}", expected_output_tokens=0)
        view = next(view for view in engines if view.name == choose(router, request, *engines).engine)
        view.dispatched[request.id] = sent(request)
    assert [len(view.dispatched) for view in engines] == [30, 30, 30]


def test_engine_without_a_snapshot_that_does_not_answer_gets_less_and_less() -> None:
    """A plain engine has one request stuck before its first token, a known one works off what it gets."""
    router = MinLoad()
    plain = engine_view("plain", None, sent(routing_request(500, name="stuck"), at_s=-100.0))
    for index in range(10):
        now_s = index * 0.3
        known = engine_view("known", capacity(), snapshot_s=now_s)
        assert choose(router, routing_request(50), known, plain, now_s=now_s).engine == "known"


def test_many_decodes_make_an_engine_without_a_snapshot_heavier() -> None:
    decoding = [sent(routing_request(100, name=f"d{index}"), emitted=1) for index in range(40)]
    plain, known = engine_view("plain", None, *decoding), engine_view("x-known", capacity(free_blocks=19_900))
    assert choose(MinLoad(), routing_request(50), known, plain).engine == "x-known"
