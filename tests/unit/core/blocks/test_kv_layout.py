"""Bytes of KV blocks, against published figures."""

import pytest

from proserve_core.blocks import KV_LAYOUTS, TRANSFERS
from proserve_core.latency.calibrations import calibration_names, load_calibration


@pytest.mark.parametrize(
    ("model", "mebibytes"),
    [("meta-llama/Llama-3.1-8B", 2.0), ("Qwen/Qwen2.5-7B", 0.875), ("Qwen/Qwen2.5-14B", 3.0)],
)
def test_a_block_of_16_tokens_has_the_published_size(model: str, mebibytes: float) -> None:
    assert KV_LAYOUTS[model].block_bytes(16) == mebibytes * 2**20


@pytest.mark.parametrize("name", calibration_names())
def test_every_calibration_has_a_layout_and_a_link(name: str) -> None:
    calibration = load_calibration(name)
    assert KV_LAYOUTS[calibration.model].token_bytes > 0
    assert TRANSFERS[calibration.gpu].restore.byte_s > 0
