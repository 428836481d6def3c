"""Load 1.0: the rate at which due work fills the time."""

import pytest

from proserve_core.latency import LatencyModel
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import ServiceObjectives
from proserve_lab.report.saturation import saturation_rate
from proserve_lab.report.workloads import workload_rows
from proserve_lab.trace import TraceRow

BASE = ServiceObjectives(ttft_s=1.0, tpot_s=0.05)
PER_TOKEN = LatencyModel(
    host_s=0.01, floor_s=0.0, linear_base_s=0.0, linear_token_s=1e-3, attention_s=0.0, context_s=0.0, sequence_s=0.0
)


def rows(count: int, *, output: int) -> list[TraceRow]:
    return [TraceRow(arrival_s=float(at), prompt_tokens=100, output_tokens=output) for at in range(count)]


def test_prompts_alone_saturate_when_they_take_what_step_constants_leave() -> None:
    # A prompt is 0.1 s of work, a fifth of each 50 ms step is its constant: 8 prompts a second.
    assert saturation_rate(rows(1001, output=1), latency=PER_TOKEN, objectives=BASE) == pytest.approx(8, rel=0.01)


def test_tokens_that_fall_due_after_the_last_arrival_do_not_count() -> None:
    # 31 prompts and their due tokens take some seconds, in which at most 20 tokens a second of an output fall due.
    endless = saturation_rate(rows(31, output=100_000), latency=PER_TOKEN, objectives=BASE)
    assert endless == saturation_rate(rows(31, output=10_000), latency=PER_TOKEN, objectives=BASE)
    assert endless < saturation_rate(rows(31, output=20), latency=PER_TOKEN, objectives=BASE)


def test_all_work_counts_whole_outputs() -> None:
    # A prompt and 99 tokens are 0.199 s of work.
    rate = saturation_rate(rows(1001, output=100), latency=PER_TOKEN, objectives=BASE, all_work=True)
    assert rate == pytest.approx(0.8 / 0.199, rel=0.01)


@pytest.mark.parametrize(
    ("calibration", "workload", "rate"),
    [
        ("h100-llama-3.1-8b", "azure-conv", 26.2),
        ("h100-llama-3.1-8b", "azure-code", 20.3),
        ("h100-llama-3.1-8b", "mooncake-conversation", 1.73),
        ("h100-llama-3.1-8b", "mooncake-synthetic", 1.395),
        ("h100-llama-3.1-8b", "m-large", 46.4),
        ("h100-llama-3.1-8b", "r1", 16.0),
        ("a100-llama-3.1-8b", "azure-conv", 7.57),
        ("a100-llama-3.1-8b", "r1", 3.82),
    ],
)
def test_rates_of_the_shipped_traces_are_those_of_an_independent_computation(
    calibration: str, workload: str, rate: float
) -> None:
    latency = load_calibration(calibration).latency
    assert saturation_rate(workload_rows(workload), latency=latency, objectives=BASE) == pytest.approx(rate, rel=0.003)


def test_a_trace_without_span_or_an_unreachable_tpot_is_refused() -> None:
    with pytest.raises(ValueError, match="span 0 s"):
        saturation_rate(rows(1, output=1), latency=PER_TOKEN, objectives=BASE)
    with pytest.raises(ValueError, match=r"TPOT 0\.01 s"):
        saturation_rate(rows(5, output=1), latency=PER_TOKEN, objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.01))
