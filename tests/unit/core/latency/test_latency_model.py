"""The shape of the step-latency model: the knee, marginal costs, and the largest chunk that fits a budget."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.latency import LatencyModel, StepWork

MODEL = LatencyModel(
    host_s=0.002,
    floor_s=0.006,
    linear_base_s=0.001,
    linear_token_s=0.00005,
    attention_s=1e-9,
    context_s=2e-8,
    sequence_s=1e-5,
)


def seconds(limit: float) -> st.SearchStrategy[float]:
    return st.one_of(st.just(0.0), st.floats(min_value=limit * 1e-9, max_value=limit))


models = st.builds(
    LatencyModel,
    host_s=seconds(0.01),
    floor_s=seconds(0.02),
    linear_base_s=seconds(0.02),
    linear_token_s=seconds(0.001),
    attention_s=seconds(1e-6),
    context_s=seconds(1e-6),
    sequence_s=seconds(0.001),
)
works = st.builds(
    StepWork,
    new_tokens=st.integers(0, 8192),
    attention=st.integers(0, 10**8).map(float),
    decode_context=st.integers(0, 10**6),
    sequences=st.integers(0, 256),
)


def with_chunk(base: StepWork, chunk: int, cached: int) -> StepWork:
    return StepWork(
        new_tokens=base.new_tokens + chunk,
        attention=base.attention + chunk * chunk + 2 * chunk * cached,
        decode_context=base.decode_context,
        sequences=base.sequences + 1,
    )


def test_step_without_work_takes_no_time() -> None:
    assert MODEL.step_s(StepWork()) == 0.0


def test_tokens_are_free_up_to_the_knee_and_cost_the_slope_beyond_it() -> None:
    assert MODEL.knee_tokens == pytest.approx(100)

    def linear_s(tokens: int) -> float:
        return MODEL.step_s(StepWork(new_tokens=tokens, sequences=1))

    assert linear_s(1) == linear_s(99) == pytest.approx(0.002 + 0.006 + 1e-5)
    assert linear_s(300) - linear_s(200) == pytest.approx(100 * MODEL.linear_token_s)


def test_model_whose_line_is_always_above_the_floor_has_its_knee_at_zero() -> None:
    model = LatencyModel(
        host_s=0.0, floor_s=0.001, linear_base_s=0.002, linear_token_s=1e-5, attention_s=0, context_s=0, sequence_s=0
    )
    assert model.knee_tokens == 0.0


def test_model_without_a_slope_never_leaves_the_floor() -> None:
    model = LatencyModel(
        host_s=0.0, floor_s=0.001, linear_base_s=0.0, linear_token_s=0.0, attention_s=0, context_s=0, sequence_s=0
    )
    assert model.knee_tokens == math.inf


def test_beyond_the_knee_a_step_costs_its_constant_and_the_marginal_costs_of_its_entries() -> None:
    work = with_chunk(StepWork(new_tokens=2, decode_context=700 + 900, sequences=2), chunk=512, cached=256)

    parts = MODEL.constant_s + MODEL.prefill_s(512, cached=256) + MODEL.decode_s(700) + MODEL.decode_s(900)

    assert MODEL.step_s(work) == pytest.approx(parts)


def test_long_prompt_costs_the_same_attention_in_chunks_as_at_once() -> None:
    at_once = MODEL.prefill_s(3000)
    in_chunks = MODEL.prefill_s(1000) + MODEL.prefill_s(1000, cached=1000) + MODEL.prefill_s(1000, cached=2000)
    assert in_chunks == pytest.approx(at_once + 2 * MODEL.sequence_s)


@given(model=models, work=works, more=works)
def test_more_work_never_takes_less_time(model: LatencyModel, work: StepWork, more: StepWork) -> None:
    both = StepWork(
        new_tokens=work.new_tokens + more.new_tokens,
        attention=work.attention + more.attention,
        decode_context=work.decode_context + more.decode_context,
        sequences=work.sequences + more.sequences,
    )
    assert model.step_s(both) >= model.step_s(work)


@given(
    model=models,
    base=works,
    cached=st.integers(0, 32768),
    limit=st.integers(0, 8192),
    budget_s=st.floats(min_value=0, max_value=2),
)
def test_largest_chunk_fits_and_one_token_more_does_not(
    model: LatencyModel, base: StepWork, cached: int, limit: int, budget_s: float
) -> None:
    chunk = model.largest_chunk(budget_s=budget_s, base=base, cached=cached, limit=limit)

    assert 0 <= chunk <= limit
    if chunk > 0:
        assert model.step_s(with_chunk(base, chunk, cached)) <= budget_s
    if chunk < limit:
        assert model.step_s(with_chunk(base, chunk + 1, cached)) > budget_s


@given(model=models, base=works, cached=st.integers(0, 32768), budgets=st.tuples(seconds(1), seconds(1)))
def test_larger_budget_never_gives_a_smaller_chunk(
    model: LatencyModel, base: StepWork, cached: int, budgets: tuple[float, float]
) -> None:
    small, large = (
        model.largest_chunk(budget_s=budget_s, base=base, cached=cached, limit=8192) for budget_s in sorted(budgets)
    )
    assert small <= large


@given(model=models, base=works, limit=st.integers(0, 8192))
def test_without_a_budget_the_limit_decides(model: LatencyModel, base: StepWork, limit: int) -> None:
    assert model.largest_chunk(budget_s=math.inf, base=base, cached=0, limit=limit) == limit
