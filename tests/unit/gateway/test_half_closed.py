"""Clients that end their side of the connection after a request: who still reads is answered, who is gone is not."""

import asyncio
import contextlib

import pytest

from data_server_bench import Bench, Client, serving

GET = b"GET /%s HTTP/1.1\r\nhost: here\r\n\r\n"
OLD = b"GET /%s HTTP/1.0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LIMIT_S = 30.0


async def ended(bench: Bench, asked: bytes) -> Client:
    """A client that has sent this and its FIN."""
    client = await bench.client()
    client.send(asked)
    client.writer.write_eof()
    return client


async def cancelled(bench: Bench) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not bench.handler.cancelled:  # noqa: ASYNC110 there is no event for it
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("get", [GET, OLD])
async def test_answer_that_is_there_at_once_is_sent_in_full(get: bytes) -> None:
    async with serving() as bench:
        rest = await (await ended(bench, get % b"echo")).rest()
        assert b"200 OK" in rest
        assert b"x-path: /echo" in rest


async def test_all_that_was_asked_before_is_answered() -> None:
    async with serving() as bench:
        rest = await (await ended(bench, GET % b"one" + GET % b"two")).rest()
        assert rest.index(b"x-path: /one") < rest.index(b"x-path: /two")


async def test_answer_that_takes_long_follows_interim_ones() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await ended(bench, GET % b"echo")
        for _ in range(3):
            assert await asyncio.wait_for(client.reader.readexactly(len(CONTINUE)), LIMIT_S) == CONTINUE
        bench.handler.gate.set()
        rest = (await client.rest()).replace(CONTINUE, b"")
        assert rest.startswith(b"HTTP/1.1 200 OK")
        assert bench.handler.cancelled == 0


async def test_stream_goes_on_with_comments_between_its_events() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await ended(bench, GET % b"begun")
        await asyncio.wait_for(client.reader.readuntil(b"3\r\n:\n\n\r\n"), LIMIT_S)
        bench.handler.gate.set()
        assert (await client.rest()).endswith(b"data: 2\n\n\r\n0\r\n\r\n")
        assert bench.handler.cancelled == 0


@pytest.mark.parametrize("path", [b"echo", b"begun"])
async def test_who_has_closed_is_found_out(path: bytes) -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await bench.client()
        client.send(GET % path)
        async with asyncio.timeout(LIMIT_S):
            while not bench.handler.asked:  # noqa: ASYNC110 there is no event for it
                await asyncio.sleep(0.005)
        client.writer.close()
        await cancelled(bench)


@pytest.mark.parametrize("path", [b"echo", b"begun"])
async def test_who_leaves_after_its_end_is_found_out_too(path: bytes) -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await ended(bench, GET % path)
        await asyncio.wait_for(client.reader.read(1), LIMIT_S)
        client.writer.transport.abort()
        await cancelled(bench)


async def test_old_protocol_knows_no_interim_answers_so_who_does_not_wait_is_gone() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await ended(bench, OLD % b"echo")
        assert await client.rest() == b""
        await cancelled(bench)


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"GET /echo HTTP/1.1\r\nhost",
        b"POST /echo HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\nhalf",
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_what_will_never_be_complete_is_given_up(asked: bytes) -> None:
    async with serving() as bench:
        client = await ended(bench, asked)
        with contextlib.suppress(ConnectionResetError):
            assert await client.rest() == b""
