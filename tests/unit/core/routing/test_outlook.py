"""Who would be served before a new request: by gain density on engines that rank, everybody on others."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_builders import service_terms
from fleet_builders import capacity, decode_row, engine_view, prefill_row, routing_request, sent
from proserve_core.capacity import ClassTotals, RequestRow
from proserve_core.objectives import ServiceTerms
from proserve_core.routing import EngineView, FleetView, RoutingRequest
from proserve_core.routing.fleet_outlook import FleetOutlook, meet_one
from proserve_core.routing.request_worth import WorthColumns, worth_of

RANKS = "recoverable-gain"


def meets(view: EngineView, request: RoutingRequest, now_s: float, *others: EngineView) -> tuple[float, float]:
    """How long after now the request could begin on the engine, and how long it then takes."""
    outlook = FleetOutlook()
    outlook.refresh(FleetView(now_s=now_s, engines=[view, *others]))
    meeting = meet_one(outlook, request, worth_of(request), now_s)
    return float(meeting.ahead_s[0]), float(meeting.needs.ready_s[0])


def ahead_s(view: EngineView, request: RoutingRequest, now_s: float = 0.0) -> float:
    return meets(view, request, now_s)[0]


def finish_s(view: EngineView, request: RoutingRequest, now_s: float = 0.0) -> float:
    return now_s + sum(meets(view, request, now_s))


def heavy(tokens: int, **options: float) -> RequestRow:
    return prefill_row(tokens, weight=100.0, **options)  # type: ignore[arg-type]


LIGHT: ServiceTerms = service_terms(1.0)


def test_only_denser_work_is_ahead_on_an_engine_that_ranks() -> None:
    rows = [heavy(200), prefill_row(3000, weight=0.01)]
    assert ahead_s(engine_view("a", capacity(*rows, policy=RANKS)), routing_request(100)) == pytest.approx(0.2)


def test_everything_queued_is_ahead_on_an_engine_that_does_not() -> None:
    rows = [heavy(200), prefill_row(3000, weight=0.01)]
    assert ahead_s(engine_view("a", capacity(*rows, policy="fcfs")), routing_request(100)) == pytest.approx(3.2)


def test_dead_work_is_never_ahead() -> None:
    view = engine_view("a", capacity(heavy(5000, due_s=-1000.0), policy=RANKS))
    assert ahead_s(view, routing_request(100)) == 0.0


def test_time_passes_for_what_is_ahead() -> None:
    view = engine_view("a", capacity(heavy(400), policy=RANKS), snapshot_s=10.0)
    assert [ahead_s(view, routing_request(10), now_s) for now_s in (10.0, 10.3, 12.0)] == pytest.approx([0.4, 0.1, 0])


def test_running_step_has_worked_on_the_queue_since_it_began() -> None:
    snapshot = capacity(heavy(400), policy=RANKS, step_age_s=0.1, step_predicted_s=0.2)
    assert ahead_s(engine_view("a", snapshot, snapshot_s=5.0), routing_request(10), 5.0) == pytest.approx(0.3)


def test_nothing_begins_before_the_running_step_ends() -> None:
    snapshot = capacity(decode_row(100), policy=RANKS, step_age_s=0.01, step_predicted_s=0.03)
    assert ahead_s(engine_view("a", snapshot, snapshot_s=5.0), routing_request(10), 5.0) == pytest.approx(0.02)


def test_decodes_leave_a_part_of_the_time() -> None:
    """10 decodes of 1 ms in each 50 ms."""
    rows = [*(decode_row(10 + row) for row in range(10)), heavy(400)]
    view = engine_view("a", capacity(*rows, policy=RANKS))
    assert ahead_s(view, routing_request(80)) == pytest.approx(0.5)
    assert finish_s(view, routing_request(80)) == pytest.approx(0.6)


def test_request_sent_to_an_idle_engine_long_after_its_snapshot_has_just_begun() -> None:
    first = routing_request(300, name="first", arrival_s=14.9)
    view = engine_view("a", capacity(policy="fcfs"), sent(first, at_s=15.0), snapshot_s=10.0)
    assert ahead_s(view, routing_request(10, arrival_s=15.1), 15.1) == pytest.approx(0.2)


def test_denser_request_sent_later_does_not_count_as_done_already() -> None:
    """The engine spent the time before it came on the lighter one."""
    light = routing_request(1000, name="light", terms=service_terms(0.01))
    dense = routing_request(200, name="dense", terms=service_terms(100.0), arrival_s=0.5)
    view = engine_view("a", capacity(policy=RANKS), sent(light, at_s=0.0), sent(dense, at_s=0.5))
    assert ahead_s(view, routing_request(10, arrival_s=0.5), 0.5) == pytest.approx(0.2)
    assert ahead_s(view, routing_request(10, arrival_s=0.5, terms=service_terms(1e-6)), 0.5) == pytest.approx(0.7)


def test_requests_sent_one_by_one_give_the_same_as_all_at_once() -> None:
    requests = [routing_request(100 * (1 + row % 3), name=f"r{row}", arrival_s=row * 0.05) for row in range(8)]
    entries = [sent(request) for request in requests]
    fresh = engine_view("a", capacity(policy=RANKS), *entries)
    growing = engine_view("a", capacity(policy=RANKS))
    outlook = FleetOutlook()
    for entry in entries:
        growing.dispatched[entry.request.id] = entry
        outlook.refresh(FleetView(now_s=entry.sent_s, engines=[growing]))
    other = FleetOutlook()
    other.refresh(FleetView(now_s=0.4, engines=[fresh]))
    assert outlook.engines[0].queue == other.engines[0].queue
    assert outlook.engines[0].free_blocks == other.engines[0].free_blocks


def test_request_that_the_snapshot_counts_is_not_counted_twice() -> None:
    counted = sent(routing_request(300, name="r"), counted=True)
    view = engine_view("a", capacity(prefill_row(300), policy="fcfs"), counted)
    assert ahead_s(view, routing_request(10)) == pytest.approx(0.3)


def test_prompt_that_the_engine_holds_in_part_is_done_sooner_there() -> None:
    view = engine_view("a", capacity(policy=RANKS))
    assert finish_s(view, routing_request(300, cached_tokens={"a": 250})) == pytest.approx(0.05)
    assert finish_s(view, routing_request(300, cached_tokens={"b": 250})) == pytest.approx(0.3)
    held = msgspec.structs.replace(sent(routing_request(300, name="r")), cached_tokens=250)
    assert ahead_s(engine_view("a", capacity(policy="fcfs"), held), routing_request(10)) == pytest.approx(0.05)


def test_engine_without_a_snapshot_has_all_its_unanswered_requests_ahead() -> None:
    speed = engine_view("known", capacity())
    waits, runs = sent(routing_request(300, name="w")), sent(routing_request(900, name="r"), emitted=5)
    plain = engine_view("plain", None, waits, runs)
    assert meets(plain, routing_request(10), 50.0, speed)[0] == pytest.approx(0.3 / (1 - 0.02))


def test_prefills_beyond_the_rows_delay_a_newcomer() -> None:
    snapshot = msgspec.structs.replace(
        capacity(prefill_row(100), policy="fcfs"),
        waiting=11,
        rows_truncated=True,
        classes={"low": ClassTotals(waiting=11, prefill_tokens=2100)},
    )
    assert ahead_s(engine_view("a", snapshot), routing_request(10)) == pytest.approx(2.1)


def test_engine_is_full_without_blocks_or_a_sequence_slot() -> None:
    outlook = FleetOutlook()
    views = [
        engine_view("blocks", capacity(free_blocks=6)),
        engine_view("slots", capacity(decode_row(1), max_sequences=1)),
        engine_view("room", capacity(free_blocks=7)),
        engine_view("sent", capacity(free_blocks=8), sent(routing_request(20, name="r"))),
    ]
    outlook.refresh(FleetView(now_s=0.0, engines=views))
    assert outlook.without_room(100).tolist() == [1, 1, 0, 1]


@given(
    queues=st.lists(
        st.lists(st.tuples(st.integers(1, 500), st.sampled_from([0.1, 1.0, 10.0])), max_size=12), max_size=4
    ),
    weights=st.lists(st.sampled_from([0.05, 0.1, 1.0, 10.0, 1e3]), min_size=1, max_size=3),
    policy=st.sampled_from([RANKS, "fcfs"]),
)
def test_several_requests_meet_what_each_would_meet_alone(
    queues: list[list[tuple[int, float]]], weights: list[float], policy: str
) -> None:
    """And that is what adding up the denser ones by hand gives."""
    engines = [
        engine_view(f"e{index}", capacity(*(prefill_row(count, weight=value) for count, value in queue), policy=policy))
        for index, queue in enumerate(queues)
    ]
    outlook = FleetOutlook()
    outlook.refresh(FleetView(now_s=0.0, engines=engines))
    worths = [worth_of(routing_request(100, terms=service_terms(weight))) for weight in weights]
    columns = WorthColumns(
        *[np.array([[getattr(worth, name)] for worth in worths]) for name in worths[0].__struct_fields__]
    )
    together = outlook.meet(columns, prompt_tokens=np.full((len(worths), 1), 100.0), cached=0.0, now_s=0.0)
    for row, worth in enumerate(worths):
        alone = outlook.meet(worth, prompt_tokens=100.0, cached=0.0, now_s=0.0)
        assert together.row(row).ahead_s.tolist() == alone.ahead_s.tolist()
        densities = alone.needs.density.tolist()
        for place, engine in enumerate(outlook.engines):
            first = [item for item in engine.queue if policy == "fcfs" or item.density >= densities[place]]
            expected_s = sum(item.prefill_s for item in first) / engine.share
            assert alone.ahead_s[place] == pytest.approx(expected_s)
