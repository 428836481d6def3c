"""The budget by gain: by hand, and against trying every choice on small cases."""

from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_builders import MILLISECOND_PER_TOKEN
from proserve_core.blocks import (
    CopyCosts,
    GainBudget,
    Overlap,
    Reload,
    Restorable,
    ResumeModel,
    Return,
    gain_budget,
)
from proserve_core.blocks.gain_budget import shortest_step
from proserve_core.latency import LatencyModel, StepWork

SIZE = 10
ALONE = StepWork()
MANY_LAYERS = Overlap(layers=1000)


def resume_model(*, block_s: float, start_s: float = 0.0, overlap: Overlap = MANY_LAYERS) -> ResumeModel:
    return ResumeModel(
        block_size=SIZE,
        costs=CopyCosts(start_s=start_s, block_s=block_s),
        latency=MILLISECOND_PER_TOKEN,
        overlap=overlap,
    )


def back(name: str, *, tokens: int = 41, host_blocks: int = 4, gain: float = 1.0) -> Return:
    return Return(request=Restorable(request_id=name, tokens=tokens, host_blocks=host_blocks), gain=gain)


def test_what_hides_is_copied() -> None:
    decodes = StepWork(new_tokens=30, decode_context=0, sequences=30)
    found = gain_budget([back("a")], model=resume_model(block_s=0.005), base=decodes, base_gain=30.0)
    assert found.blocks == {"a": 4}
    assert found.step_s == pytest.approx(0.041, rel=0.01)


def test_what_does_not_hide_is_computed_for_the_least_valuable() -> None:
    # 8 blocks take 80 ms; with 4 of them 40 ms are copied while 1 + 41 ms are computed.
    requests = [back("light", gain=7.0), back("heavy", gain=8.0)]
    found = gain_budget(requests, model=resume_model(block_s=0.010), base=ALONE, base_gain=0.0)
    assert found.blocks["heavy"] == 4
    assert found.blocks["light"] == 0


def test_who_would_make_the_others_wait_for_little_waits() -> None:
    # 20 decodes bring 20 in 30 ms. The long one alone takes 100 ms more.
    decodes = StepWork(new_tokens=20, decode_context=0, sequences=20)
    long = back("long", tokens=101, host_blocks=10, gain=2.0)
    found = gain_budget([long], model=resume_model(block_s=0.013), base=decodes, base_gain=20.0)
    assert found.blocks == {}
    assert found.gain_per_s == pytest.approx(20 / 0.030)


def test_the_same_one_comes_back_when_it_is_worth_the_wait() -> None:
    decodes = StepWork(new_tokens=20, decode_context=0, sequences=20)
    long = back("long", tokens=101, host_blocks=10, gain=100.0)
    found = gain_budget([long], model=resume_model(block_s=0.013), base=decodes, base_gain=20.0)
    assert "long" in found.blocks


def test_somebody_comes_back_when_nothing_else_runs() -> None:
    found = gain_budget([back("a", gain=0.0)], model=resume_model(block_s=1.0), base=ALONE, base_gain=0.0)
    assert found.blocks == {"a": 0}


def test_nobody_to_bring_back() -> None:
    decodes = StepWork(new_tokens=20, decode_context=0, sequences=20)
    found = gain_budget([], model=resume_model(block_s=0.01), base=decodes, base_gain=3.0)
    assert found == GainBudget(blocks={}, step_s=0.030, gain_per_s=3.0 / 0.030)


returns = st.lists(
    st.builds(
        Return,
        request=st.builds(
            Restorable,
            request_id=st.uuids().map(str),
            tokens=st.integers(31, 80),
            host_blocks=st.integers(0, 4),
            device_tokens=st.sampled_from([0, 10, 30]),
        ),
        gain=st.floats(0, 20),
    ),
    min_size=1,
    max_size=3,
)
engines = st.builds(
    ResumeModel,
    block_size=st.just(SIZE),
    costs=st.builds(CopyCosts, start_s=st.floats(0, 5e-3), block_s=st.floats(1e-5, 2e-2)),
    latency=st.builds(
        LatencyModel,
        host_s=st.floats(1e-4, 1e-2),
        floor_s=st.floats(0, 2e-2),
        linear_base_s=st.floats(0, 5e-3),
        linear_token_s=st.floats(1e-6, 1e-3),
        attention_s=st.floats(0, 1e-5),
        context_s=st.floats(0, 1e-6),
        sequence_s=st.floats(0, 1e-4),
    ),
    overlap=st.builds(Overlap, reload=st.sampled_from(Reload), layers=st.integers(1, 80)),
)
bases = st.builds(
    StepWork, new_tokens=st.integers(0, 60), decode_context=st.integers(0, 10**4), sequences=st.integers(0, 40)
)


def step_s(some: list[Return], blocks: tuple[int, ...], engine: ResumeModel, base: StepWork) -> float:
    rests = [entry.request.rest(taken, SIZE) for entry, taken in zip(some, blocks, strict=True)]
    forward_s = (
        engine.latency.sums_s(
            base.new_tokens + sum(rest for rest, _ in rests),
            base.attention + sum(attention for _, attention in rests),
            base.decode_context,
            base.sequences + len(some),
        )
        - engine.latency.host_s
    )
    return engine.latency.host_s + engine.overlap.both_s(engine.costs.copy_s(sum(blocks)), forward_s)


def usable(some: list[Return]) -> tuple[int, ...]:
    return tuple(entry.request.usable(SIZE) for entry in some)


def least_step_s(some: list[Return], engine: ResumeModel, base: StepWork) -> float:
    every = product(*(range(most + 1) for most in usable(some)))
    return min(step_s(some, blocks, engine, base) for blocks in every)


@settings(max_examples=50)
@given(some=returns, engine=engines, base=bases)
def test_the_shortest_step_is_close_to_the_best_of_all_splits(
    some: list[Return], engine: ResumeModel, base: StepWork
) -> None:
    blocks, duration_s = shortest_step(some, model=engine, base=base)
    assert all(0 <= taken <= most for taken, most in zip(blocks, usable(some), strict=True))
    assert duration_s == pytest.approx(step_s(some, blocks, engine, base))
    assert duration_s <= least_step_s(some, engine, base) * 1.25 + 1e-12


@settings(max_examples=50)
@given(some=returns, engine=engines, base=bases)
def test_the_step_is_never_longer_than_with_all_copied_or_all_computed(
    some: list[Return], engine: ResumeModel, base: StepWork
) -> None:
    _, duration_s = shortest_step(some, model=engine, base=base)
    assert duration_s <= step_s(some, usable(some), engine, base) + 1e-12
    assert duration_s <= step_s(some, (0,) * len(some), engine, base) + 1e-12


@given(some=returns, engine=engines, base=bases, base_gain=st.floats(0, 50))
@settings(max_examples=50)
def test_gain_per_second_is_close_to_the_best_of_all_choices(
    some: list[Return], engine: ResumeModel, base: StepWork, base_gain: float
) -> None:
    found = gain_budget(some, model=engine, base=base, base_gain=base_gain)
    best = base_gain / engine.latency.step_s(base) if base.sequences else 0.0
    for count in range(1, len(some) + 1):
        for chosen in map(list, combinations(some, count)):
            gain = base_gain + sum(entry.gain for entry in chosen)
            best = max(best, gain / least_step_s(chosen, engine, base))
    assert best / 2 - 1e-9 <= found.gain_per_s <= best * (1 + 1e-9) + 1e-9
    together = base_gain + sum(entry.gain for entry in some)
    for blocks in (usable(some), (0,) * len(some)):
        assert found.gain_per_s >= together / step_s(some, blocks, engine, base) * (1 - 1e-9)
