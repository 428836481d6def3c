"""Whatever numbers an engine publishes: its snapshot is refused, or every policy can route on it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_builders import bind_all, capacity, decode_row, engine_view, prefill_row, routing_request, sent
from proserve_core.capacity import CapacityError, CapacitySnapshot, decode_snapshot, encode_snapshot
from proserve_core.routing import LATE_ROUTERS, ROUTERS, EngineView, FleetView, make_room

ORDINARY = capacity(
    prefill_row(1000), prefill_row(50, emitted=3), decode_row(300), policy="recoverable-gain", step_predicted_s=0.01
)
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 1e-6, 1e-9, 1e6, 10**12, 1e18, -1e18]),
)


def number_paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in number_paths(item, (*path, key))]
    if isinstance(value, list):
        return [found for place, item in enumerate(value) for found in number_paths(item, (*path, place))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) and path != ("version",) else []


PATHS = number_paths(json.loads(encode_snapshot(ORDINARY)))


@st.composite
def snapshots(draw: st.DrawFn) -> CapacitySnapshot | None:
    """With some of its numbers replaced; None: refused."""
    fields = json.loads(encode_snapshot(ORDINARY))
    fields["rows_truncated"] = draw(st.booleans())
    for path in draw(st.lists(st.sampled_from(PATHS), max_size=6)):
        place = fields
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = draw(numbers)
    try:
        return decode_snapshot(json.dumps(fields).encode())
    except CapacityError:
        return None


def views(snapshot: CapacitySnapshot) -> list[EngineView]:
    at_engine = sent(routing_request(100, name="known"), at_s=1000.0)
    return [
        engine_view("hostile", snapshot, at_engine, snapshot_s=1000.0 - snapshot.age_s),
        engine_view("ordinary", ORDINARY, snapshot_s=1000.0),
    ]


@pytest.mark.parametrize("name", sorted([*ROUTERS, *LATE_ROUTERS]))
@settings(max_examples=40)
@given(snapshot=snapshots())
def test_snapshot_that_is_not_refused_can_be_routed_on(name: str, snapshot: CapacitySnapshot | None) -> None:
    if snapshot is None:
        return
    room = make_room(name)
    asked = [routing_request(tokens, name=f"r{tokens}", arrival_s=999.9) for tokens in (10, 5000)]
    for request in asked:
        room.arrived(request)
    engines = views(snapshot)
    names = [binding.request.id for binding in bind_all(room, engines, now_s=1000.0)]
    names += [binding.request.id for binding in bind_all(room, engines, now_s=1000.5)]
    assert len(names) == len(set(names))
    if len(room):
        assert room.weakest(1000.5) in {request.id for request in asked} - set(names)
    placed = room.place(routing_request(20, name="placed", arrival_s=1000.0), FleetView(now_s=1000.5, engines=engines))
    assert placed.decision.engine in {"hostile", "ordinary"}
