"""What every routing policy must do, over random fleets."""

import copy

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.capacity import CapacitySnapshot, ClassTotals, RequestRow
from proserve_core.latency.calibrations import calibration_names, load_calibration
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_core.routing import (
    LATE_ROUTERS,
    ROUTERS,
    Binding,
    Dispatched,
    EngineView,
    FleetView,
    RoutingRequest,
    WaitingRoom,
    make_room,
    make_router,
)
from proserve_core.routing.registry import COUNTERS_OF_REQUESTS

NOW_S = 1000.0

tokens = st.one_of(st.integers(0, 50_000), st.just(10**12))
seconds = st.one_of(st.floats(-5, 5), st.sampled_from([-1e9, 0.0, 1e9]))
positive = st.one_of(st.floats(1e-6, 100), st.sampled_from([1e-12, 1e12]))

terms = st.builds(
    ServiceTerms,
    priority_class=st.sampled_from(["high", "low"]),
    weight=positive,
    first_token_gain=st.one_of(st.just(0.0), positive),
    output_token_gain=st.one_of(st.just(0.0), positive),
    objectives=st.builds(ServiceObjectives, ttft_s=positive, tpot_s=positive),
)


@st.composite
def requests(draw: st.DrawFn, id_strategy: st.SearchStrategy[str]) -> RoutingRequest:
    prompt_tokens = draw(tokens)
    hits = st.integers(0, max(0, prompt_tokens - 1))
    return RoutingRequest(
        id=draw(id_strategy),
        arrival_s=draw(st.floats(NOW_S - 10, NOW_S)),
        terms=draw(terms),
        prompt_tokens=prompt_tokens,
        expected_output_tokens=draw(st.floats(0, 1e6)),
        cached_tokens=draw(st.dictionaries(st.sampled_from(["a", "1", "gone"]), hits)),
    )


rows = st.builds(
    RequestRow,
    id=st.uuids().map(str),
    priority_class=st.sampled_from(["high", "low"]),
    weight=positive,
    first_token_gain=positive,
    output_token_gain=positive,
    tpot_s=positive,
    decoding=st.booleans(),
    resident=st.booleans(),
    prefill_tokens=tokens,
    context_tokens=tokens,
    emitted_tokens=st.integers(0, 5000),
    deadline_in_s=seconds,
)


@st.composite
def snapshots(draw: st.DrawFn) -> CapacitySnapshot:
    calibration = load_calibration(draw(st.sampled_from(calibration_names())))
    blocks = draw(st.integers(0, 100_000))
    return CapacitySnapshot(
        seq=draw(st.integers(0, 2**40)),
        engine_id="e",
        model="m",
        policy=draw(st.sampled_from(["fcfs", "priority", "slide-batching", "recoverable-gain", "of-the-future"])),
        age_s=0.0,
        block_size=draw(st.sampled_from([1, 16, 128])),
        blocks=blocks,
        free_blocks=draw(st.integers(0, blocks)),
        running=draw(st.integers(0, 300)),
        waiting=draw(st.integers(0, 5000)),
        max_sequences=draw(st.integers(1, 256)),
        max_step_tokens=draw(st.integers(1, 8192)),
        step_age_s=draw(st.one_of(st.none(), st.floats(0, 10))),
        step_predicted_s=draw(st.one_of(st.none(), st.floats(0, 10))),
        latency=calibration.latency,
        classes={"low": ClassTotals(waiting=3, running=2, prefill_tokens=draw(tokens), decode_context_tokens=10)},
        rows=tuple(draw(st.lists(rows, max_size=3))),
        rows_truncated=draw(st.booleans()),
    )


@st.composite
def engine_views(draw: st.DrawFn, name: str) -> EngineView:
    sent = draw(st.lists(requests(st.uuids().map(str)), max_size=2, unique_by=lambda request: request.id))
    return EngineView(
        name=name,
        snapshot=draw(st.one_of(st.none(), snapshots())),
        snapshot_s=draw(st.floats(NOW_S - 60, NOW_S)),
        dispatched={
            request.id: Dispatched(
                request=request,
                sent_s=draw(st.floats(NOW_S - 60, NOW_S)),
                emitted_tokens=draw(st.integers(0, 3)),
                in_snapshot=draw(st.booleans()),
            )
            for request in sent
        },
    )


@st.composite
def fleets(draw: st.DrawFn) -> FleetView:
    names = draw(st.lists(st.text("abc123-", min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
    return FleetView(now_s=NOW_S, engines=[draw(engine_views(name)) for name in names])


calls = st.lists(st.tuples(requests(st.just("new")), fleets()), min_size=1, max_size=2)


@pytest.mark.parametrize("name", sorted(ROUTERS))
@settings(max_examples=30)
@given(calls=calls)
def test_chooses_an_engine_of_the_view_with_a_reason(name: str, calls: list[tuple[RoutingRequest, FleetView]]) -> None:
    router = make_router(name)
    for request, fleet in calls:
        decision = router.choose(request, fleet)
        names = {view.name for view in fleet.engines}
        assert decision.engine in names
        assert decision.engine in decision.candidates
        assert set(decision.candidates) <= names
        assert decision.reason
        assert not any(character.isdigit() for character in decision.reason), "reasons are metric labels"


@pytest.mark.parametrize("name", sorted(ROUTERS))
@settings(max_examples=15)
@given(calls=calls)
def test_same_calls_give_same_decisions_and_leave_the_view_alone(
    name: str, calls: list[tuple[RoutingRequest, FleetView]]
) -> None:
    before = msgspec.json.encode([fleet for _, fleet in calls])
    first, second = make_router(name), make_router(name)
    for request, fleet in calls:
        assert first.choose(request, fleet) == second.choose(request, fleet)
    assert msgspec.json.encode([fleet for _, fleet in calls]) == before


@pytest.mark.parametrize("name", sorted(set(ROUTERS) - {"round-robin"}))
@settings(max_examples=15)
@given(request_=requests(st.just("new")), fleet=fleets())
def test_decision_does_not_depend_on_what_was_remembered(name: str, request_: RoutingRequest, fleet: FleetView) -> None:
    """A policy may keep memory for speed; round-robin's turn is the only one that may show."""
    router = make_router(name)
    router.choose(request_, fleet)
    assert router.choose(request_, fleet) == make_router(name).choose(request_, fleet)


@pytest.mark.parametrize("name", sorted(ROUTERS))
def test_order_of_engines_in_the_view_does_not_matter(name: str) -> None:
    calibration = load_calibration("h100-llama-3.1-8b")
    engines = [EngineView(name=name_, snapshot=None, snapshot_s=0.0, dispatched={}) for name_ in ("b", "c", "a")]
    request = RoutingRequest(
        id="new",
        arrival_s=NOW_S,
        terms=ServiceTerms(
            priority_class="low",
            weight=1,
            first_token_gain=1,
            output_token_gain=1,
            objectives=ServiceObjectives(ttft_s=1, tpot_s=0.05),
        ),
        prompt_tokens=calibration.block_size,
        expected_output_tokens=100,
    )
    chosen = {
        make_router(name).choose(request, FleetView(now_s=NOW_S, engines=order)).engine
        for order in (engines, engines[::-1])
    }
    assert len(chosen) == 1


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'rr' does not exist; known: go-full, go-routing, least-requests"):
        make_router("rr")


rooms = sorted([*ROUTERS, *LATE_ROUTERS])
arrivals = st.lists(requests(st.uuids().map(str)), max_size=5, unique_by=lambda request: request.id)


def bind(room: WaitingRoom, fleet: FleetView) -> list[Binding]:
    views = {view.name: view for view in fleet.engines}
    bound = []
    for binding in room.bind(fleet):
        entry = Dispatched(request=binding.request, sent_s=fleet.now_s, cached_tokens=binding.cached_tokens)
        views[binding.decision.engine].dispatched[binding.request.id] = entry
        bound.append(binding)
    return bound


@pytest.mark.parametrize("name", rooms)
@settings(max_examples=25)
@given(asked=arrivals, left=st.integers(0, 4), fleet=fleets())
def test_room_binds_each_request_at_most_once_to_an_engine_of_the_view(
    name: str, asked: list[RoutingRequest], left: int, fleet: FleetView
) -> None:
    room = make_room(name)
    for request in asked:
        room.arrived(request)
    expected = {request.id for request in asked}
    if left < len(asked):
        assert room.left(asked[left].id)
        expected.remove(asked[left].id)
    bound = [binding for _ in range(2) for binding in bind(room, fleet)]
    names = [binding.request.id for binding in bound]
    assert len(set(names)) == len(names)
    assert set(names) <= expected
    assert len(room) == len(expected) - len(names)
    assert room.tick_s is not None or len(room) == 0
    for binding in bound:
        assert binding.decision.engine in {view.name for view in fleet.engines}
        assert binding.decision.engine in binding.decision.candidates
        assert 0 <= binding.cached_tokens <= binding.request.prompt_tokens
        assert binding.decision.reason
        assert not any(character.isdigit() for character in binding.decision.reason), "reasons are metric labels"


@pytest.mark.parametrize("name", rooms)
@settings(max_examples=10)
@given(asked=arrivals, fleet=fleets())
def test_same_room_and_same_calls_give_same_bindings(name: str, asked: list[RoutingRequest], fleet: FleetView) -> None:
    def run() -> list[tuple[str, str]]:
        room, view = make_room(name), copy.deepcopy(fleet)
        for request in asked:
            room.arrived(request)
        return [(binding.request.id, binding.decision.engine) for binding in bind(room, view)]

    assert run() == run()


def test_unknown_name_of_a_room_lists_late_ones_too() -> None:
    with pytest.raises(ValueError, match=r"'rr' does not exist; known: .*late-gain"):
        make_room("rr")


@pytest.mark.parametrize("name", sorted(COUNTERS_OF_REQUESTS))
@settings(max_examples=25)
@given(request=requests(st.just("new")), fleet=fleets())
def test_policy_that_only_counts_requests_decides_the_same_whatever_engines_hold(
    name: str, request: RoutingRequest, fleet: FleetView
) -> None:
    unknown = msgspec.structs.replace(request, cached_tokens={})
    assert make_router(name).choose(request, fleet) == make_router(name).choose(unknown, fleet)
