"""The offline fit finds the model behind measured steps."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.latency import LatencyModel, StepWork
from proserve_core.latency.calibrations import calibration_names, load_calibration
from proserve_core.latency.errors import Stratum, error_stats
from proserve_core.latency.fit import StepSample, fit_latency
from step_samples import measure, steps


def samples(truth: LatencyModel, count: int = 600, *, noise: float = 0.0, seed: int = 1) -> list[StepSample]:
    rng = random.Random(seed)
    return [StepSample(work, measure(truth, work, rng, noise)) for work in steps(count, seed=seed)]


def mape(model: LatencyModel, truth: LatencyModel) -> float:
    stats = error_stats((model.step_s(work), truth.step_s(work)) for work in steps(300, seed=99))
    assert stats is not None
    return stats.mape


@pytest.mark.parametrize("name", calibration_names())
def test_recovers_a_calibration_from_exact_steps(name: str) -> None:
    truth = load_calibration(name).latency
    model, report = fit_latency(samples(truth), host_s=truth.host_s)
    assert mape(model, truth) < 0.005
    assert report.r2 > 0.999
    assert model.context_s == pytest.approx(truth.context_s, rel=0.02)
    assert model.attention_s == pytest.approx(truth.attention_s, rel=0.02)


def test_finds_the_knee_and_splits_the_constant_as_told() -> None:
    truth = load_calibration("h100-llama-3.1-8b").latency
    model, report = fit_latency(samples(truth, 2000, noise=0.03), host_s=truth.host_s)
    assert report.knee_tokens == pytest.approx(truth.knee_tokens, rel=0.15)
    assert model.host_s == pytest.approx(truth.host_s, rel=0.3)
    assert model.floor_s == pytest.approx(truth.floor_s, rel=0.1)
    assert model.linear_token_s == pytest.approx(truth.linear_token_s, rel=0.03)


def test_reports_no_knee_where_there_is_none() -> None:
    truth = LatencyModel(
        host_s=0.005,
        floor_s=0.0,
        linear_base_s=0.0,
        linear_token_s=2e-4,
        attention_s=1e-8,
        context_s=1e-6,
        sequence_s=1e-4,
    )
    model, report = fit_latency(samples(truth, noise=0.05))
    assert report.knee_tokens == 0.0
    assert mape(model, truth) < 0.02


def test_noise_is_what_the_report_says() -> None:
    truth = load_calibration("a100-llama-3.1-8b").latency
    model, report = fit_latency(samples(truth, 2000, noise=0.05))
    assert mape(model, truth) < 0.01
    assert report.overall.mape == pytest.approx(0.04, abs=0.01)
    assert set(report.strata) == {Stratum.DECODE, Stratum.PREFILL, Stratum.MIXED}
    assert sum(stats.steps for stats in report.strata.values()) == report.samples - report.trimmed
    assert all(stats.mae_s < stats.p95_s for stats in report.strata.values())


def test_outliers_are_dropped_and_counted() -> None:
    truth = load_calibration("h100-llama-3.1-8b").latency
    rng = random.Random(5)
    dirty = [
        StepSample(sample.work, sample.measured_s * (10 if rng.random() < 0.05 else 1))
        for sample in samples(truth, 1000, noise=0.02)
    ]
    model, report = fit_latency(dirty)
    assert mape(model, truth) < 0.01
    assert 30 <= report.trimmed <= 80


def test_too_few_samples_are_refused_with_the_count() -> None:
    truth = load_calibration("cpu-tiny").latency
    useless = [StepSample(StepWork(), 0.1), StepSample(StepWork(new_tokens=1, sequences=1), 0.0)]
    with pytest.raises(ValueError, match="10 usable step samples of 12: a fit needs at least 20"):
        fit_latency([*samples(truth, 10), *useless])


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), noise=st.floats(0, 1))
def test_coefficients_are_never_negative(seed: int, noise: float) -> None:
    model, _ = fit_latency(samples(load_calibration("h100-llama-3.1-8b").latency, 40, noise=noise, seed=seed))
    assert min(model.host_s, model.floor_s, model.linear_base_s, model.linear_token_s) >= 0
    assert min(model.attention_s, model.context_s, model.sequence_s) >= 0
