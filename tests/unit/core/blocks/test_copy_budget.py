"""The published budget: answers by hand, and against trying every number of blocks as its authors do."""

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_builders import MILLISECOND_PER_TOKEN
from proserve_core.blocks import CopyCosts, Overlap, Restorable, ResumeModel, allot, ranked_budget, unlimited
from proserve_core.latency import LatencyModel, StepWork

SIZE = 10
ALONE = StepWork()
LONG_S = 1e9
# With all blocks restored both compute one token: 10 ms for the step and 2 ms.
FIRST = Restorable(request_id="first", tokens=31, host_blocks=3)
LAST = Restorable(request_id="last", tokens=41, host_blocks=4)


def resume_model(copying: CopyCosts, latency: LatencyModel) -> ResumeModel:
    return ResumeModel(block_size=SIZE, costs=copying, latency=latency, overlap=Overlap())


def budget(
    *requests: Restorable, block_s: float, start_s: float = 0.002, budget_s: float = LONG_S, base: StepWork = ALONE
) -> int:
    return ranked_budget(
        requests,
        model=resume_model(CopyCosts(start_s=start_s, block_s=block_s), MILLISECOND_PER_TOKEN),
        base=base,
        budget_s=budget_s,
    )


def test_copies_that_hide_are_all_made() -> None:
    # 2 + 7 * 1 = 9 ms behind 12 ms.
    assert budget(FIRST, LAST, block_s=0.001) == 7


def test_the_last_in_rank_computes_what_does_not_hide() -> None:
    # All copies take 2 + 7 * 4 = 30 ms, compute 12. With 3 of the last one's blocks: 26 and 22 ms; with 2: 22 and 32.
    assert budget(FIRST, LAST, block_s=0.004) == 6


def test_the_walk_goes_on_when_the_last_gives_up_all_and_copies_still_do_not_hide() -> None:
    # 19.5 ms per block. The last one: none give 60.5 ms and 52, one gives 80. The first one: 2 give 41 and 62, 3 give
    # 60.5 and 52.
    assert budget(FIRST, LAST, block_s=0.0195) == 3


def test_other_work_of_the_step_hides_copies() -> None:
    assert budget(FIRST, LAST, block_s=0.004, base=StepWork(new_tokens=18, sequences=18)) == 7


def test_in_a_full_step_copies_may_take_as_long_as_its_budget() -> None:
    assert budget(FIRST, LAST, block_s=0.004, budget_s=0.011) == 2
    assert budget(FIRST, LAST, block_s=0.004, budget_s=0.005) == 0
    assert budget(FIRST, LAST, block_s=0.0001, budget_s=0.011) == 7


def test_nothing_to_restore() -> None:
    assert budget(block_s=0.001) == 0
    assert budget(Restorable(request_id="a", tokens=5, host_blocks=3), block_s=0.001) == 0


def test_a_budget_is_used_up_from_the_most_important_downwards() -> None:
    assert allot([FIRST, LAST], budget_blocks=5, block_size=SIZE) == (3, 2)
    assert allot([FIRST, LAST], budget_blocks=2, block_size=SIZE) == (2, 0)
    assert allot([FIRST, LAST], budget_blocks=unlimited([FIRST, LAST], block_size=SIZE), block_size=SIZE) == (3, 4)


UNIT_S = 2.0**-20
"""Times are whole multiples of this, so that sums are exact and ties are ties."""
units = st.integers(0, 200).map(lambda count: count * UNIT_S)
restorables = st.lists(
    st.builds(
        Restorable,
        request_id=st.just("r"),
        tokens=st.integers(1, 120),
        host_blocks=st.integers(0, 8),
        device_tokens=st.sampled_from([0, 10, 20]),
    ).filter(lambda request: request.tokens > request.device_tokens),
    max_size=5,
)
latencies = st.builds(
    LatencyModel,
    host_s=units,
    floor_s=units,
    linear_base_s=units,
    linear_token_s=st.integers(0, 20).map(lambda count: count * UNIT_S),
    attention_s=st.integers(0, 8).map(lambda count: count * UNIT_S / 64),
    context_s=st.just(0.0),
    sequence_s=st.integers(0, 20).map(lambda count: count * UNIT_S),
)
costs = st.builds(CopyCosts, start_s=units, block_s=st.integers(1, 300).map(lambda count: count * UNIT_S))


def compute_s(requests: list[Restorable], blocks: list[int], latency: LatencyModel, base: StepWork) -> float:
    rests = [request.rest(taken, SIZE) for request, taken in zip(requests, blocks, strict=True)]
    return latency.sums_s(
        base.new_tokens + sum(rest for rest, _ in rests),
        base.attention + sum(attention for _, attention in rests),
        base.decode_context,
        base.sequences + len(requests),
    )


def step_s(
    requests: list[Restorable], blocks: list[int], copying: CopyCosts, latency: LatencyModel, base: StepWork
) -> float:
    return max(copying.copy_s(sum(blocks)), compute_s(requests, blocks, latency, base))


def enumerated(requests: list[Restorable], copying: CopyCosts, latency: LatencyModel, base: StepWork) -> int:
    """The walk with every number of blocks tried, on the whole step each time."""
    blocks = [request.usable(SIZE) for request in requests]
    for last in reversed(range(len(requests))):
        if blocks[last] == 0:
            continue

        def longer_s(taken: int, last: int = last) -> float:
            trial = [*blocks[:last], taken, *blocks[last + 1 :]]
            # The start of the copy stays in, as in the source, even if nothing is copied.
            return max(copying.start_s + sum(trial) * copying.block_s, compute_s(requests, trial, latency, base))

        blocks[last] = min(range(blocks[last], -1, -1), key=longer_s)
        copy_s = copying.start_s + sum(blocks) * copying.block_s
        if blocks[last] > 0 or copy_s <= compute_s(requests, blocks, latency, base):
            break
    return sum(blocks)


bases = st.builds(StepWork, new_tokens=st.integers(0, 50), sequences=st.integers(0, 50))


@settings(max_examples=50)
@given(requests=restorables, copying=costs, latency=latencies, base=bases)
def test_is_what_trying_every_number_finds(
    requests: list[Restorable], copying: CopyCosts, latency: LatencyModel, base: StepWork
) -> None:
    found = ranked_budget(requests, model=resume_model(copying, latency), base=base, budget_s=LONG_S)
    total = unlimited(requests, block_size=SIZE)
    whole = [request.usable(SIZE) for request in requests]
    if copying.copy_s(total) <= compute_s(requests, whole, latency, base):
        assert found == total
    else:
        assert found == enumerated(requests, copying, latency, base)


@settings(max_examples=50)
@given(requests=restorables, copying=costs, latency=latencies, base=bases)
def test_the_step_is_never_longer_than_with_all_copied_or_all_computed(
    requests: list[Restorable], copying: CopyCosts, latency: LatencyModel, base: StepWork
) -> None:
    found = ranked_budget(requests, model=resume_model(copying, latency), base=base, budget_s=LONG_S)
    taken = list(allot(requests, budget_blocks=found, block_size=SIZE))
    duration_s = step_s(requests, taken, copying, latency, base)
    assert duration_s <= step_s(requests, [r.usable(SIZE) for r in requests], copying, latency, base)
    assert duration_s <= step_s(requests, [0] * len(requests), copying, latency, base)


@given(requests=restorables, copying=costs, latency=latencies, budget_s=units)
def test_a_full_step_keeps_its_time_budget(
    requests: list[Restorable], copying: CopyCosts, latency: LatencyModel, budget_s: float
) -> None:
    found = ranked_budget(requests, model=resume_model(copying, latency), base=ALONE, budget_s=budget_s)
    whole = [request.usable(SIZE) for request in requests]
    if compute_s(requests, whole, latency, ALONE) >= budget_s:
        assert copying.copy_s(found) <= budget_s


@given(requests=restorables, blocks=st.integers(0, 50))
def test_an_allotment_keeps_its_budget_and_wastes_none_of_it(requests: list[Restorable], blocks: int) -> None:
    taken = allot(requests, budget_blocks=blocks, block_size=SIZE)
    assert sum(taken) == min(blocks, unlimited(requests, block_size=SIZE))
    assert all(0 <= part <= request.usable(SIZE) for part, request in zip(taken, requests, strict=True))
