"""The shipped calibrations say what their sources measured."""

import pytest

from proserve_core.latency import StepWork
from proserve_core.latency.calibrations import calibration_names, load_calibration


def decode(batch: int, context: int) -> StepWork:
    return StepWork(new_tokens=batch, decode_context=batch * context, sequences=batch)


def prefill(tokens: int, cached: int = 0) -> StepWork:
    return StepWork(new_tokens=tokens, attention=tokens**2 + 2 * tokens * cached, sequences=1)


def test_names_of_the_command_line_contract_exist() -> None:
    assert set(calibration_names()) >= {
        "a100-llama-3.1-8b",
        "a100-qwen2.5-14b",
        "cpu-tiny",
        "h100-llama-3.1-8b",
        "h100-qwen2.5-14b",
        "h100-qwen2.5-7b",
    }


@pytest.mark.parametrize("name", calibration_names())
def test_every_calibration_is_usable_and_names_its_source(name: str) -> None:
    calibration = load_calibration(name)
    assert calibration.name == name
    assert len(calibration.source) > 40
    assert calibration.blocks > 0
    assert calibration.block_size > 0
    # vLLM's API server admits 1024 on GPUs with 70 GiB and more other than the A100, 256 on all others.
    assert calibration.max_sequences == (1024 if name.startswith("h100") else 256)
    assert calibration.max_step_tokens == 8192
    model = calibration.latency
    assert all(value >= 0 for value in (model.host_s, model.floor_s, model.linear_base_s, model.linear_token_s))
    assert 0 < model.step_s(decode(1, 128)) < model.step_s(decode(64, 1024)) < model.step_s(prefill(8192))


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'h200-llama' does not exist; known: a100-llama-3\.1-8b, "):
        load_calibration("h200-llama")


@pytest.mark.parametrize(
    ("name", "work", "expected_ms"),
    [
        ("h100-llama-3.1-8b", decode(32, 1024), 8.6),
        ("h100-llama-3.1-8b", prefill(2048), 44),
        ("h100-qwen2.5-7b", decode(1, 1024), 6.6),
        ("h100-qwen2.5-14b", decode(32, 1024), 13.9),
        ("a100-llama-3.1-8b", decode(32, 1024), 16.6),
        ("a100-qwen2.5-14b", decode(32, 1024), 27.6),
    ],
)
def test_full_steps_match_the_reference(name: str, work: StepWork, expected_ms: float) -> None:
    assert load_calibration(name).latency.step_s(work) * 1e3 == pytest.approx(expected_ms, rel=0.02)


@pytest.mark.parametrize(
    ("name", "work", "kernels_ms"),
    [
        ("h100-llama-3.1-8b", decode(1, 1024), 5.9),
        ("h100-llama-3.1-8b", decode(128, 1024), 12.0),
        ("h100-llama-3.1-8b", prefill(4096), 78),
        ("h100-llama-3.1-8b", prefill(8192), 173),
        ("h100-qwen2.5-7b", decode(128, 1024), 8.6),
        ("h100-qwen2.5-14b", decode(64, 1024), 15.4),
        ("h100-qwen2.5-14b", prefill(2048), 73),
        ("a100-llama-3.1-8b", decode(64, 1024), 17.2),
        ("a100-llama-3.1-8b", prefill(2048), 118),
        ("a100-qwen2.5-14b", decode(1, 1024), 21.3),
        ("a100-qwen2.5-14b", prefill(4096), 440),
    ],
)
def test_full_steps_exceed_the_kernels_by_overheads_only(name: str, work: StepWork, kernels_ms: float) -> None:
    """Kernel sums lack norms, activations, sampling and host work: 0.5 to 2 ms in decodes, up to 35% in prefills."""
    step_ms = load_calibration(name).latency.step_s(work) * 1e3
    assert kernels_ms < step_ms < 1.35 * kernels_ms + 2.2


@pytest.mark.parametrize(
    ("name", "knee"), [("h100-llama-3.1-8b", 267), ("h100-qwen2.5-14b", 247), ("a100-llama-3.1-8b", 97)]
)
def test_knee_is_where_compute_passes_the_weight_read(name: str, knee: float) -> None:
    assert load_calibration(name).latency.knee_tokens == pytest.approx(knee, rel=0.01)


@pytest.mark.parametrize(("work", "measured_ms"), [(decode(1, 120), 3.9), (decode(16, 520), 6.9)])
def test_cpu_tiny_reproduces_the_times_it_was_derived_from(work: StepWork, measured_ms: float) -> None:
    assert load_calibration("cpu-tiny").latency.step_s(work) * 1e3 == pytest.approx(measured_ms, rel=0.15)
