"""The online model follows the engine and nothing else."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.latency import LatencyModel, StepWork
from proserve_core.latency.calibrations import calibration_names, load_calibration
from proserve_core.latency.errors import Stratum, error_stats
from proserve_core.latency.online import WINDOW, OnlineLatency
from step_samples import decode_step, measure, prefill_step, steps

H100 = load_calibration("h100-llama-3.1-8b").latency
A100 = load_calibration("a100-llama-3.1-8b").latency


def times(model: LatencyModel, factor: float) -> LatencyModel:
    return LatencyModel(**{name: value * factor for name, value in msgspec.structs.asdict(model).items()})


def feed(
    online: OnlineLatency,
    truth: LatencyModel,
    count: int,
    *,
    seed: int = 1,
    noise: float = 0.05,
    outliers: float = 0.0,
    prefill_share: float = 0.3,
) -> None:
    rng = random.Random(seed)
    for work in steps(count, seed=seed, prefill_share=prefill_share):
        factor = 10.0 if rng.random() < outliers else 1.0
        online.observe(work, measure(truth, work, rng, noise) * factor)


def mape(model: LatencyModel, truth: LatencyModel, *, prefill_share: float = 0.3) -> float:
    pairs = ((model.step_s(work), truth.step_s(work)) for work in steps(400, seed=77, prefill_share=prefill_share))
    stats = error_stats(pairs)
    assert stats is not None
    return stats.mape


def test_recovers_the_coefficients_from_a_model_that_is_far_off() -> None:
    truth = msgspec.structs.replace(
        H100, host_s=0.004, floor_s=0.008, linear_base_s=0.0008, linear_token_s=2.7e-5, context_s=8e-8, attention_s=1e-9
    )
    online = OnlineLatency(H100)
    feed(online, truth, 3000)
    assert mape(online.model, truth) < 0.03
    assert online.model.context_s == pytest.approx(truth.context_s, rel=0.1)
    assert online.model.linear_token_s == pytest.approx(truth.linear_token_s, rel=0.1)
    assert online.model.attention_s == pytest.approx(truth.attention_s, rel=0.2)


def test_a_coefficient_that_starts_fifty_times_too_small_is_found_within_a_few_publications() -> None:
    """A larger model on a slower core than the calibration's: prompts cost 50 times as much, the rest a few times."""
    start = load_calibration("cpu-tiny").latency
    truth = msgspec.structs.replace(
        start, host_s=0.002, floor_s=0.006, linear_base_s=0.004, linear_token_s=50 * start.linear_token_s
    )
    online = OnlineLatency(start)
    feed(online, truth, 100, noise=0.2)
    assert mape(online.model, truth) < 0.15


@pytest.mark.parametrize("name", calibration_names())
def test_learns_another_engine_from_any_start(name: str) -> None:
    """The knee is not learned, so an A100 seen from another machine keeps some error around it."""
    online = OnlineLatency(load_calibration(name).latency)
    feed(online, A100, 1500)
    assert mape(online.model, A100) < 0.1


def test_a_right_model_stays_right() -> None:
    online = OnlineLatency(H100)
    feed(online, H100, 3000)
    assert mape(online.model, H100) < 0.02
    assert online.rejected < 30


def test_follows_drift() -> None:
    online = OnlineLatency(H100)
    for part in range(40):
        feed(online, times(H100, 1 + part / 40), 100, seed=part)
    assert mape(online.model, times(H100, 2)) < 0.05


def test_outliers_are_rejected() -> None:
    online = OnlineLatency(H100)
    feed(online, H100, 2000, outliers=0.05)
    assert mape(online.model, H100) < 0.03
    assert online.rejected >= 60


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("prefill_share", [0.0, 0.3])
def test_lasting_shift_is_learned_within_a_few_hundred_steps(factor: float, prefill_share: float) -> None:
    online = OnlineLatency(H100)
    feed(online, H100, 2000, noise=0.03)
    feed(online, times(H100, factor), 300, seed=2, noise=0.03, prefill_share=prefill_share)
    assert mape(online.model, times(H100, factor), prefill_share=prefill_share) < 0.06


def test_what_was_learned_about_prefills_outlasts_a_long_phase_of_decodes() -> None:
    truth = msgspec.structs.replace(
        H100, floor_s=2 * H100.floor_s, linear_base_s=2 * H100.linear_base_s, linear_token_s=2 * H100.linear_token_s
    )
    online = OnlineLatency(H100)
    feed(online, truth, 1500)
    feed(online, truth, 1500, seed=2, prefill_share=0.0)
    assert online.model.linear_token_s == pytest.approx(truth.linear_token_s, rel=0.05)


def test_without_prefills_their_cost_stays_where_it_was() -> None:
    online = OnlineLatency(H100)
    feed(online, times(H100, 1.3), 2000, prefill_share=0.0)
    assert online.model.attention_s == pytest.approx(H100.attention_s)
    assert online.model.context_s == pytest.approx(H100.context_s * 1.3, rel=0.05)


def test_steps_that_are_all_alike_share_the_change_among_the_coefficients() -> None:
    """One batch, again and again, says how long that batch takes and nothing else."""
    online, work = OnlineLatency(H100), StepWork(new_tokens=32, decode_context=32_000, sequences=32)
    for _ in range(1000):
        online.observe(work, 1.5 * H100.step_s(work))
    assert online.model.step_s(work) == pytest.approx(1.5 * H100.step_s(work), rel=0.01)
    for name, value in msgspec.structs.asdict(online.model).items():
        assert 0.99 * getattr(H100, name) <= value <= 2 * getattr(H100, name), name


def test_publishes_no_more_often_than_told() -> None:
    online = OnlineLatency(H100, publish_every=10)
    rng, published = random.Random(1), []
    for _ in range(100):
        before = online.model
        work = decode_step(rng)
        told = online.observe(work, measure(H100, work, rng, 0.05))
        assert told == (online.model is not before)
        published.append(told)
    assert sum(published) == 10


def test_errors_are_those_of_the_predictions_by_kind_of_step() -> None:
    online, rng = OnlineLatency(H100, publish_every=100_000), random.Random(1)
    assert online.mape is None
    assert online.errors() == {}
    for _ in range(2 * WINDOW):
        work = prefill_step(rng)
        online.observe(work, 2 * H100.step_s(work))
        work = decode_step(rng)
        online.observe(work, H100.step_s(work))
    errors = online.errors()
    assert errors[Stratum.PREFILL].mape == pytest.approx(0.5)
    assert errors[Stratum.PREFILL].steps == WINDOW
    assert errors[Stratum.DECODE].p95_s == 0.0
    assert Stratum.MIXED not in errors
    assert online.mape == pytest.approx(0.25)


@pytest.mark.parametrize("measured_s", [0.0, -1.0, float("nan"), float("inf")])
def test_unusable_times_are_counted_and_ignored(measured_s: float) -> None:
    online = OnlineLatency(H100, publish_every=1)
    assert not online.observe(StepWork(new_tokens=1, sequences=1), measured_s)
    assert not online.observe(StepWork(), 0.1)
    assert (online.rejected, online.observed, online.model) == (2, 2, H100)


def test_publishing_never_is_refused() -> None:
    with pytest.raises(ValueError, match="publish_every 0 must be at least 1"):
        OnlineLatency(H100, publish_every=0)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(calibration_names()),
    durations=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40),
)
def test_no_measurements_make_a_model_negative_or_useless(seed: int, name: str, durations: list[float]) -> None:
    online = OnlineLatency(load_calibration(name).latency, publish_every=1)
    for work, measured_s in zip(steps(len(durations), seed=seed), durations, strict=True):
        online.observe(work, measured_s)
        assert all(0 <= value < 1e9 for value in msgspec.structs.asdict(online.model).values())
        assert online.model.step_s(work) >= 0


def test_starts_from_a_model_that_knows_nothing() -> None:
    blank = LatencyModel(
        host_s=0, floor_s=0, linear_base_s=0, linear_token_s=0, attention_s=0, context_s=0, sequence_s=0
    )
    online = OnlineLatency(blank)
    feed(online, H100, 1500)
    assert mape(online.model, H100) < 0.25
