"""What an engine that publishes no capacity tells of itself in its Prometheus metrics: vLLM's and SGLang's names.

Only the few samples that the gateway can use are looked for, by name: a scrape of vLLM has thousands of lines, and a
parser of the format would read them all. Engines with data parallelism have a line per rank, whose counts add up.
Numbers that no engine can mean are left out: what a server writes is not to be trusted with the gateway's arithmetic.
"""

import re
from collections.abc import Sequence

import msgspec


class EngineReading(msgspec.Struct, frozen=True, kw_only=True):
    """One scrape."""

    running: int
    waiting: int
    kv_usage: float | None = None
    """Share of the KV cache that is taken, 0 to 1."""
    block_size: int | None = None
    """Tokens."""
    blocks: int | None = None
    tokens: float = 0.0
    """Read and written since the engine started: grows as it computes."""


def _gauge(*names: str) -> "re.Pattern[bytes]":
    """Samples of the first of these names; a name that is only the beginning of another one does not match."""
    either = b"|".join(re.escape(name.encode()) for name in names)
    return re.compile(rb"^(?:" + either + rb")(?:\{[^\n]*\})? ([^\s#]+)", re.MULTILINE)


_RUNNING = _gauge("vllm:num_requests_running", "sglang:num_running_reqs")
_WAITING = _gauge("vllm:num_requests_waiting", "sglang:num_queue_reqs")
_USAGE = _gauge("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage")
_CAPACITY = _gauge("sglang:max_total_num_tokens")
_TOKENS = _gauge(
    "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "sglang:prompt_tokens_total",
    "sglang:generation_tokens_total",
)  # fmt: skip
_CONFIG = re.compile(rb"^vllm:cache_config_info\{([^\n]*)\}", re.MULTILINE)
_BLOCK_SIZE = re.compile(rb'\bblock_size="(\d{1,12})"')
_BLOCKS = re.compile(rb'\bnum_gpu_blocks="(\d{1,12})"')
_MOST = 1e12
"""Of anything that is counted here."""


def read_metrics(text: bytes) -> EngineReading | None:
    """What a scrape says; None when it is not of an engine that we know."""
    running, waiting = _values(_RUNNING, text), _values(_WAITING, text)
    if not running or not waiting:
        return None
    usages = _values(_USAGE, text)
    block_size, blocks = _cache(text)
    return EngineReading(
        running=round(sum(running)),
        waiting=round(sum(waiting)),
        kv_usage=min(1.0, sum(usages) / len(usages)) if usages else None,
        block_size=block_size,
        blocks=blocks,
        tokens=sum(_values(_TOKENS, text)),
    )


def _cache(text: bytes) -> tuple[int | None, int | None]:
    """Size of a block and number of blocks, over all ranks."""
    if tokens := _values(_CAPACITY, text):
        return 1, round(sum(tokens)) or None
    configs = _CONFIG.findall(text)
    sizes = _numbers(_BLOCK_SIZE, configs)
    return max(sizes, default=0) or None, sum(_numbers(_BLOCKS, configs)) or None


def _numbers(pattern: "re.Pattern[bytes]", texts: Sequence[bytes]) -> list[int]:
    return [int(found[1]) for text in texts if (found := pattern.search(text)) is not None]


def _values(pattern: "re.Pattern[bytes]", text: bytes) -> list[float]:
    """Values that make sense for a count or a share."""
    values = []
    for written in pattern.findall(text):
        try:
            value = float(written)
        except ValueError:
            continue
        if 0 <= value <= _MOST:
            values.append(value)
    return values
