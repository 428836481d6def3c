"""Engine and simulator side by side: calibration from logged steps, errors, verdicts."""

import random

import msgspec
import pytest

from engine_builders import H100_LLAMA_8B
from proserve_core.facts import default_terms
from proserve_core.latency import LatencyModel, StepWork
from proserve_core.latency.step_log import LoggedStep, decode_steps, encode_step
from proserve_lab.fidelity import agreements, calibrate, simulated_request, step_errors
from proserve_lab.replay import ReplayRequest


def logged(latency: LatencyModel, *, count: int, slower: float = 1.0, scatter: float = 0.0) -> list[LoggedStep]:
    """Steps that take what `latency` says on the thread's clock, and `slower` times that by the wall."""
    draw = random.Random(0)
    steps, ended_s = [], 0.0
    for _ in range(count):
        decodes, prompt = draw.randrange(1, 64), draw.choice([0, 100, 700, 2000])
        work = StepWork(
            new_tokens=decodes + prompt, attention=prompt**2, decode_context=700 * decodes, sequences=decodes + 1
        )
        cpu_s = latency.step_s(work) * draw.uniform(1 - scatter, 1 + scatter)
        ended_s += cpu_s * slower
        steps.append(LoggedStep(work=work, predicted_s=0.0, wall_s=cpu_s * slower, cpu_s=cpu_s, ended_s=ended_s))
    return steps


def test_calibration_takes_its_shape_from_the_thread_and_its_level_from_the_wall() -> None:
    model = calibrate(logged(H100_LLAMA_8B, count=400, slower=1.3))
    for work in (StepWork(new_tokens=20, decode_context=9000, sequences=20), StepWork(new_tokens=3000, sequences=1)):
        assert model.step_s(work) == pytest.approx(1.3 * H100_LLAMA_8B.step_s(work), rel=0.02)


def test_calibrated_steps_together_take_as_long_as_they_did() -> None:
    steps = logged(H100_LLAMA_8B, count=300, scatter=0.4)
    model = calibrate(steps)
    assert sum(model.step_s(step.work) for step in steps) == pytest.approx(sum(step.wall_s for step in steps))


def test_what_the_thread_waits_for_in_each_step_is_a_constant_of_the_step() -> None:
    steps = [
        msgspec.structs.replace(step, wall_s=1.1 * step.cpu_s + 0.002) for step in logged(H100_LLAMA_8B, count=300)
    ]
    model = calibrate(steps)
    assert model.constant_s == pytest.approx(1.1 * H100_LLAMA_8B.constant_s + 0.002, rel=0.05)
    assert model.linear_token_s == pytest.approx(1.1 * H100_LLAMA_8B.linear_token_s, rel=0.05)


def test_waiting_for_copies_is_none_of_a_steps_own_time() -> None:
    steps = logged(H100_LLAMA_8B, count=300)
    waiting = [msgspec.structs.replace(step, wall_s=step.wall_s + 0.01, copies_s=0.01) for step in steps]
    assert calibrate(waiting).constant_s == pytest.approx(calibrate(steps).constant_s)
    errors = step_errors([(H100_LLAMA_8B, waiting)])
    assert errors is not None
    assert (errors.bias, errors.waited) == pytest.approx((0.0, 0.0))


def test_noise_of_long_steps_does_not_move_the_short_ones() -> None:
    draw, decode, prompt = random.Random(1), StepWork(new_tokens=9, decode_context=900, sequences=9), 2000
    mixed = StepWork(new_tokens=9 + prompt, attention=prompt**2, decode_context=900, sequences=10)
    steps = [
        LoggedStep(work=work, predicted_s=0.0, wall_s=cpu_s + 0.0004, cpu_s=cpu_s, ended_s=0.0)
        for work, cpu_s in [(decode, 0.004), *((mixed, 0.1 * draw.uniform(0.7, 1.6)) for _ in range(10))] * 20
    ]
    model = calibrate(steps)
    assert model.step_s(decode) == pytest.approx(0.0044, rel=0.15)
    assert sum(model.step_s(step.work) for step in steps) == pytest.approx(sum(step.wall_s for step in steps))


def test_step_errors_tell_scatter_from_bias_and_waiting() -> None:
    errors = step_errors([(H100_LLAMA_8B, logged(H100_LLAMA_8B, count=100, slower=1.25))])
    assert errors is not None
    assert errors.steps == 100
    assert errors.mape == pytest.approx(0.2)
    assert (errors.bias, errors.decode_bias) == pytest.approx((-0.2, -0.2))
    assert errors.waited == pytest.approx(0.2)
    assert errors.factors == pytest.approx((1.25, 1.25))
    assert step_errors([]) is None


def test_the_simulator_gets_the_clues_that_the_engine_gets() -> None:
    request = ReplayRequest(
        id="a", arrival_s=1.0, prompt_tokens=8, output_tokens=5, terms=default_terms(), api_key="none"
    )
    simulated = simulated_request(request, arrival_s=3.0, prefix="2-")
    assert (simulated.id, simulated.arrival_s, simulated.clues.max_tokens) == ("2-a", 3.0, 5)


def test_the_mean_over_the_runs_decides_by_class() -> None:
    runs = [(0.50, 0.50), (0.60, 0.57), (0.55, 0.49)]
    found = agreements(
        [({"total": 0.5, "a": engine}, {"total": 0.6, "a": simulator}) for engine, simulator in runs], target_points=3.0
    )
    assert list(found) == ["a", "total"]
    assert found["a"].difference_points == pytest.approx(3.0)
    assert found["a"].standard_error_points == pytest.approx(3 / 3**0.5)
    assert found["total"].difference_points == pytest.approx(-10)
    assert not found["total"].within


def test_one_run_has_no_standard_error() -> None:
    (found,) = agreements([({"total": 0.5}, {"total": 0.52})], target_points=3.0).values()
    assert found.standard_error_points is None
    assert found.within


def test_a_log_is_read_up_to_the_line_that_is_being_written() -> None:
    step = LoggedStep(work=StepWork(new_tokens=3, sequences=2), predicted_s=0.1, wall_s=0.2, cpu_s=0.15, ended_s=7.0)
    assert decode_steps([encode_step(step), encode_step(step), encode_step(step)[:-5]]) == [step, step]
    with pytest.raises(ValueError, match="step log"):
        decode_steps([b"{}\n"])
