"""Snapshots made of an engine's metrics and of own requests."""

from hypothesis import given
from hypothesis import strategies as st

from proserve_core.engine_metrics import EngineReading
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_core.routing import Dispatched, EngineView, FleetView, RoutingRequest, make_router
from proserve_core.routing.coarse_capacity import coarse_snapshot
from proserve_core.routing.engine_profile import nominal_profile
from proserve_core.routing.registry import ROUTERS

PROFILE = nominal_profile(())
TERMS = ServiceTerms(
    priority_class="high",
    weight=4,
    first_token_gain=1,
    output_token_gain=1,
    objectives=ServiceObjectives(ttft_s=0.5, tpot_s=0.05),
)


def sent(number: int, *, emitted: int = 0, prompt_tokens: int = 100) -> Dispatched:
    request = RoutingRequest(
        id=f"r{number}", arrival_s=10.0, terms=TERMS, prompt_tokens=prompt_tokens, expected_output_tokens=50
    )
    return Dispatched(request=request, sent_s=10.0, emitted_tokens=emitted)


def test_own_requests_are_rows_and_the_others_are_counted() -> None:
    reading = EngineReading(running=10, waiting=5, kv_usage=0.25, block_size=16, blocks=1000)
    own = [sent(1, emitted=3), sent(2), sent(3, prompt_tokens=300)]
    snapshot = coarse_snapshot(reading, own, profile=PROFILE, seq=7, now_s=10.2)
    assert (snapshot.seq, snapshot.running, snapshot.waiting) == (7, 10, 5)
    assert (snapshot.free_blocks, snapshot.blocks, snapshot.block_size) == (750, 1000, 16)
    decoding, first, second = snapshot.rows
    assert (decoding.decoding, decoding.prefill_tokens, decoding.context_tokens) == (True, 0, 103)
    assert decoding.deadline_in_s == 10.0 + 0.5 + 3 * 0.05 - 10.2
    assert (first.decoding, first.prefill_tokens, second.prefill_tokens) == (False, 100, 300)
    others = snapshot.classes[""]
    # Two of the five that wait are taken to be ours; the other three have prompts like ours.
    assert (others.waiting, others.running) == (3, 9)
    assert others.prefill_tokens == 400 + 3 * (500 // 3)
    assert snapshot.rows_truncated


def test_requests_that_the_metrics_do_not_count_yet_are_not_lost() -> None:
    snapshot = coarse_snapshot(
        EngineReading(running=0, waiting=0), [sent(1), sent(2, emitted=1)], profile=PROFILE, seq=1, now_s=10.0
    )
    assert (snapshot.running, snapshot.waiting) == (1, 1)
    assert not snapshot.rows_truncated
    assert snapshot.blocks == PROFILE.blocks
    assert snapshot.free_blocks == PROFILE.blocks - -(-101 // PROFILE.block_size)


def view(name: str, reading: EngineReading, own: list[Dispatched]) -> EngineView:
    snapshot = coarse_snapshot(reading, own, profile=PROFILE, seq=1, now_s=11.0)
    for entry in own:
        entry.in_snapshot = True
    return EngineView(name=name, snapshot=snapshot, snapshot_s=11.0, dispatched={each.request.id: each for each in own})


def test_an_engine_that_others_keep_busy_gets_less_than_one_that_they_do_not() -> None:
    for router in ("least-requests", "min-load", "min-ahead", "go-routing", "go-full"):
        busy = view("busy", EngineReading(running=60, waiting=40, kv_usage=0.9), [])
        idle = view("idle", EngineReading(running=1, waiting=0, kv_usage=0.1), [sent(1, emitted=5)])
        choice = make_router(router).choose(sent(9).request, FleetView(now_s=11.0, engines=(busy, idle)))
        assert choice.engine == "idle", router


counts = st.integers(0, 300)
engines_ = st.tuples(counts, counts, st.none() | st.floats(0, 1), st.lists(st.integers(0, 5), max_size=5))


@given(st.lists(engines_, min_size=1, max_size=8))
def test_every_policy_can_use_them(engines: list[tuple[int, int, float | None, list[int]]]) -> None:
    views = tuple(
        view(
            f"e{index}",
            EngineReading(running=running, waiting=waiting, kv_usage=usage),
            [sent(100 * index + number, emitted=emitted) for number, emitted in enumerate(own)],
        )
        for index, (running, waiting, usage, own) in enumerate(engines)
    )
    for each in views:
        assert each.snapshot is not None
        assert each.requests() >= len(each.dispatched)
        assert 0 <= each.snapshot.free_blocks <= each.snapshot.blocks
    for name in ROUTERS:
        choice = make_router(name).choose(sent(9999).request, FleetView(now_s=11.0, engines=views))
        assert choice.engine in {each.name for each in views}
