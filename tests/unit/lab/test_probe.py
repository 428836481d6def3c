"""Measuring what servers can do."""

import asyncio

import pytest

from proserve_core.objectives import DEFAULT_CLASS
from proserve_lab.probe import ProbeError, probe
from proserve_lab.replay import ReplayRequest
from scripted_server import HEAD, Write, chunk, event, server

REQUEST = ReplayRequest(
    id="r", arrival_s=0.0, prompt_tokens=4, output_tokens=2, terms=DEFAULT_CLASS.terms(), api_key="key"
)


async def test_the_closed_loop_finds_the_rate_of_a_server_with_fixed_latency() -> None:
    busy = 0
    most = 0

    async def script(body: dict[str, object], write: Write) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await write(HEAD + chunk(event(1)))
        await asyncio.sleep(0.02)
        await write(chunk(event(2) + b"data: [DONE]\n\n") + b"0\r\n\r\n")
        busy -= 1

    async with server(script) as (url, _):
        throughput = await probe([REQUEST], urls=[url], model="m", concurrency=4, duration_s=0.5)
    # At most 4 / 20 ms; a busy machine does less.
    assert 0 < throughput.requests_per_s <= 220
    assert throughput.tokens_per_s == pytest.approx(2 * throughput.requests_per_s)
    assert throughput.tpot_p50_s >= 0.02
    assert most <= 4


async def test_requests_that_never_finish_count_for_the_tokens_they_got() -> None:
    async def script(body: dict[str, object], write: Write) -> None:
        await write(HEAD)
        await asyncio.sleep(0.75)
        await write(chunk(event(1)))
        await asyncio.sleep(60)

    async with server(script) as (url, _):
        throughput = await probe([REQUEST], urls=[url], model="m", concurrency=1, duration_s=2.0)
    assert throughput.requests_per_s == pytest.approx(0.5 / (0.75 * 2.0))


async def test_a_failing_server_is_an_error_and_not_a_low_rate() -> None:
    async def script(body: dict[str, object], write: Write) -> None:
        await write(b"HTTP/1.1 503 Down\r\ncontent-length: 4\r\n\r\ndown")

    async with server(script) as (url, _):
        with pytest.raises(ProbeError, match="HTTP 503: down"):
            await probe([REQUEST], urls=[url], model="m", concurrency=2, duration_s=60)


async def test_a_server_that_says_nothing_is_an_error() -> None:
    async def script(body: dict[str, object], write: Write) -> None:
        await asyncio.sleep(60)

    async with server(script) as (url, _):
        with pytest.raises(ProbeError, match="no answer within"):
            await probe([REQUEST], urls=[url], model="m", concurrency=2, duration_s=0.1)
