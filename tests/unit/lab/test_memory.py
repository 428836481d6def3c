"""What requests leave behind while they pass through an engine, at a size that a test can afford."""

import gc
import tracemalloc

import pytest

from engine_builders import H100_LLAMA_8B
from proserve_lab.bench.memory import MemoryResult, report, run


def traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("policy", ["fcfs", "qoserve", "recoverable-gain", "weighted-vtc"])
def test_requests_that_have_left_leave_nothing_behind(policy: str) -> None:
    tracemalloc.start()
    try:
        result = run(policy=policy, steps=1200, latency=H100_LLAMA_8B, used_bytes=traced_bytes)
    finally:
        tracemalloc.stop()
    # What is bounded by design is full by then. A hundred bytes from each request of the second half would be more.
    assert result.used_bytes[-1] - result.used_bytes[4] < 50 * result.requests


def test_growth_counts_from_the_first_tenth() -> None:
    result = MemoryResult(policy="fcfs", steps=10, requests=3, used_bytes=[5 << 20, 6 << 20])
    assert result.growth_bytes == 1 << 20
    assert "+1024 KiB since the first tenth, target <= 1024 KiB (met)" in report(result)
