"""The benchmark's own arithmetic and refusals; its figures are no tests."""

import asyncio
import contextlib
import json

import pytest

from proserve_core.resources import parse_resources
from proserve_lab.bench import gateway_rate, gateway_streams, proxies, stream_load
from proserve_lab.bench.gateway_rate import RateResult
from proserve_lab.bench.gateway_streams import StreamResult
from proserve_lab.bench.proxies import BenchError
from proserve_lab.bench.stream_load import StreamCommand, Upstream


def rate_result(gateway: list[float], nginx: list[float]) -> RateResult:
    return RateResult(
        gateway_rps=gateway, nginx_rps=nginx, upstream_rps=[900.0], gateway_us=[40.0, 50.0], nginx_us=[20.0, 20.0]
    )


def test_ratios_are_medians_of_neighbouring_turns() -> None:
    result = rate_result([100, 400, 90], [200, 500, 300])
    assert result.ratio == pytest.approx(0.5)
    assert result.cpu_ratio == pytest.approx(0.45)
    first, second, third = gateway_rate.report(result)
    assert "ratio 0.50, target >= 0.45 (met)" in first
    assert "ratio 0.45" in second
    assert "not the limit" in third


def test_missed_targets_are_called_missed() -> None:
    assert "(missed)" in gateway_rate.report(rate_result([10.0], [100.0]))[0]
    slow = {"gateway": [9000.0], "nginx": [500.0], "direct": [400.0]}
    lines = gateway_streams.report(
        StreamResult(
            gateway_chunk_us=[30.0],
            nginx_chunk_us=[10.0],
            first_byte_us=slow,
            delay_p50_us=slow,
            delay_p99_us=slow,
            chunks_per_s=slow,
            base_bytes=[70_000_000],
            per_stream_bytes=[21_000.0],
        )
    )
    assert [line.count("missed") for line in lines] == [1, 1, 1, 0, 1]
    assert "added 8600 us" in lines[1]


def test_upstream_that_is_not_much_faster_is_told() -> None:
    assert "may be the limit" in gateway_rate.report(rate_result([10.0], [800.0]))[2]


def test_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "wrk" else f"/usr/bin/{tool}")
    with pytest.raises(BenchError, match="wrk is not installed"):
        proxies.need("nginx", "wrk")


def test_request_and_reply_have_the_stated_sizes() -> None:
    body = gateway_rate.wrk_script().split("wrk.body = '")[1].rsplit("'", 1)[0]
    assert len(body) == len(proxies.request_body(stream=True)) == proxies.REQUEST_BYTES
    assert json.loads(body)["model"] == proxies.MODEL
    assert len(proxies.reply_body()) == proxies.REPLY_BYTES


def test_resources_of_the_benchmark_are_valid() -> None:
    resources = parse_resources({"b": proxies.resources_text([8000, 8001])}, require_pools=True, require_tenants=True)
    assert len(resources.engine_pools[0].endpoints) == 2


async def test_stream_load_counts_the_chunks_of_its_own_upstream() -> None:
    loop = asyncio.get_running_loop()
    upstream = Upstream()
    server = await loop.create_server(lambda: stream_load._Stream(upstream), "127.0.0.1", 0)
    ticking = asyncio.create_task(upstream.run())
    port = server.sockets[0].getsockname()[1]
    times = await stream_load.measure(
        upstream, StreamCommand(port=port, streams=3, chunks=5, interval_ms=1.0, seconds=1.0)
    )
    assert times.errors == 0
    assert times.streams > 3
    assert times.chunks >= 5 * (times.streams - 3) - 15
    assert len(times.first_byte_us) == len(times.delay_us) == 2
    ticking.cancel()
    server.close()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
