"""The replay client against a small scripted server."""

import asyncio

import pytest

from proserve_core.objectives import DEFAULT_CLASS
from proserve_lab.replay import ReplayRecord, ReplayRequest, prompt_ids, replay
from scripted_server import HEAD, Script, Write, chunk, event, server


def request(number: int = 0, *, arrival_s: float = 0.0, output: int = 3) -> ReplayRequest:
    return ReplayRequest(
        id=f"r{number}",
        arrival_s=arrival_s,
        prompt_tokens=4,
        output_tokens=output,
        terms=DEFAULT_CLASS.terms(),
        api_key="key",
    )


async def run(script: Script, *requests: ReplayRequest, timeout_s: float = 60.0) -> list[ReplayRecord]:
    async with server(script) as (url, _):
        return await replay(requests, url=url, model="m", timeout_s=timeout_s)


async def test_tokens_are_counted_by_usage_however_they_are_cut_into_events_and_packets() -> None:
    async def script(body: dict[str, object], write: Write) -> None:
        stream = event(1) + event(3) + b"data: [DONE]\n\n"
        await write(HEAD + chunk(stream[:20]))
        await asyncio.sleep(0.01)
        await write(chunk(stream[20:]) + b"0\r\n\r\n")

    [record] = await run(script, request(output=3))
    assert record.error is None
    assert len(record.tokens_s) == 3
    assert record.tokens_s[1] == record.tokens_s[2]


async def test_requests_go_out_at_their_time_without_waiting_for_answers() -> None:
    released = asyncio.Event()

    async def script(body: dict[str, object], write: Write) -> None:
        if body["max_tokens"] == 2:
            released.set()
        await released.wait()
        await write(HEAD + chunk(event(body["max_tokens"]) + b"data: [DONE]\n\n") + b"0\r\n\r\n")  # type: ignore[arg-type]

    first, second = await run(script, request(1, output=1), request(2, arrival_s=0.05, output=2))
    assert first.error is None
    assert second.error is None
    assert second.sent_s >= 0.05


async def test_the_same_prompt_is_sent_on_every_run_and_asks_for_exact_lengths() -> None:
    async def script(body: dict[str, object], write: Write) -> None:
        await write(HEAD + chunk(event(3) + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with server(script) as (url, bodies):
        for _ in range(2):
            await replay([request()], url=url, model="m", timeout_s=60)
    assert bodies[0] == bodies[1]
    assert bodies[0]["prompt"] == prompt_ids(0, 4)
    assert bodies[0]["ignore_eos"] is True


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"HTTP/1.1 429 Busy\r\ncontent-length: 4\r\n\r\nbusy", "HTTP 429: busy"),
        (HEAD + chunk(event(1)) + b"0\r\n\r\n", "without its end mark"),
        (HEAD + chunk(event(1)), "connection was lost"),
        (HEAD + chunk(event(1) + b"data: [DONE]\n\n"), "expected 3 tokens, got 1"),
        (HEAD + chunk(b'data: {"error": {"message": "gone"}}\n\ndata: [DONE]\n\n'), "error in the stream: gone"),
        (b"nonsense\r\n\r\n", "not HTTP"),
    ],
)
async def test_failures_are_recorded_with_their_reason(reply: bytes, message: str) -> None:
    async def script(body: dict[str, object], write: Write) -> None:
        await write(reply)

    [record] = await run(script, request())
    assert record.error is not None
    assert message in record.error


async def test_a_server_that_never_answers_is_an_error_after_the_time_limit() -> None:
    async def script(body: dict[str, object], write: Write) -> None:
        await asyncio.sleep(60)

    [record] = await run(script, request(), timeout_s=0.05)
    assert record.error is not None
    assert "no end of the stream within 0.05 s" in record.error


async def test_a_server_that_is_not_there_is_an_error() -> None:
    [record] = await replay([request()], url="http://127.0.0.1:9", model="m", timeout_s=60)
    assert record.error is not None
    assert "cannot connect" in record.error
