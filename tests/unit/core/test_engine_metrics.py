"""What is read of engines' Prometheus metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.engine_metrics import EngineReading, read_metrics

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="llama"} 17.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="llama"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="llama",reason="capacity"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="llama"} 0.25
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="28750",num_gpu_blocks_override="None"} 1.0
"""
SGLANG = b"""\
sglang:num_running_reqs{model_name="Qwen/Qwen3"} 8.0
sglang:num_running_reqs_offline_batch{model_name="Qwen/Qwen3"} 80.0
sglang:num_queue_reqs{model_name="Qwen/Qwen3"} 2.0
sglang:token_usage{model_name="Qwen/Qwen3"} 0.5
sglang:max_total_num_tokens{model_name="Qwen/Qwen3"} 100000.0
"""


def test_vllm_is_understood() -> None:
    assert read_metrics(VLLM) == EngineReading(running=17, waiting=4, kv_usage=0.25, block_size=16, blocks=28750)


def test_older_name_of_the_cache_usage_is_understood() -> None:
    reading = read_metrics(VLLM.replace(b"kv_cache_usage_perc", b"gpu_cache_usage_perc"))
    assert reading is not None
    assert reading.kv_usage == 0.25


def test_sglang_is_understood_its_blocks_being_tokens() -> None:
    assert read_metrics(SGLANG) == EngineReading(running=8, waiting=2, kv_usage=0.5, block_size=1, blocks=100_000)


def test_ranks_of_one_engine_add_up() -> None:
    second = VLLM.replace(b'engine="0"', b'engine="1"').replace(b" 0.25\n", b" 0.75\n")
    assert read_metrics(VLLM + second) == EngineReading(
        running=34, waiting=8, kv_usage=0.5, block_size=16, blocks=57500
    )


def test_samples_without_labels_are_understood() -> None:
    text = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n"
    assert read_metrics(text) == EngineReading(running=1, waiting=0)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>not found</html>",
        b"vllm:num_requests_running 3\n",
        b"tgi_queue_size 3\n",
        b"vllm:num_requests_running NaN\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running many\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running -1\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running 1.7e308\nvllm:num_requests_waiting 1\n",
        b"x_vllm:num_requests_running 1\nx_vllm:num_requests_waiting 1\n",
    ],
)
def test_what_is_no_engine_or_makes_no_sense_is_nothing(text: bytes) -> None:
    assert read_metrics(text) is None


def test_a_number_of_blocks_that_no_engine_has_is_left_out() -> None:
    reading = read_metrics(VLLM.replace(b"28750", b"9" * 5000))
    assert reading == EngineReading(running=17, waiting=4, kv_usage=0.25, block_size=16)


numbers = st.one_of(st.floats().map(repr), st.integers().map(str), st.integers(1, 6000).map(lambda count: "9" * count))


@given(st.lists(st.one_of(st.binary(max_size=300), numbers.map(str.encode)), min_size=1, max_size=2))
def test_nothing_that_a_server_sends_breaks_it(written: list[bytes]) -> None:
    first, last = written[0], written[-1]
    blocks = VLLM.replace(b"28750", first)
    tokens = SGLANG.replace(b"100000.0", first) + SGLANG.replace(b"100000.0", last)
    counts = VLLM.replace(b"17.0", first) + VLLM.replace(b"17.0", last)
    for text in (first, VLLM + first, blocks, tokens, counts, VLLM.replace(b"0.25", first)):
        reading = read_metrics(text)
        assert reading is None or (reading.running >= 0 and 0 <= (reading.kv_usage or 0) <= 1)
