"""The data port's HTTP server alone: nothing that two proxies could read differently, and nothing without bounds."""

import asyncio

import pytest

from data_server_bench import POST, serving, sized


@pytest.mark.parametrize(
    "request_",
    [
        sized(b"abc").replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n"),
        POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        POST + b"content-length: 3, 3\r\n\r\nabc",
        POST + b"content-length: +3\r\n\r\nabc",
        POST + b"content-length: 0x3\r\n\r\nabc",
        POST + b"content-length : 3\r\n\r\nabc",
        POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"x: a\r\n folded\r\ncontent-length: 0\r\n\r\n",
        POST + b"x: a\ncontent-length: 0\r\n\r\n",
        b"POST /echo HTTP/1.1\nhost: here\n\n",
        POST + b"host: there\r\ncontent-length: 0\r\n\r\n",
        POST + b"authorization: a\r\nauthorization: b\r\ncontent-length: 0\r\n\r\n",
        POST + b"a b: c\r\ncontent-length: 0\r\n\r\n",
        POST + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n",
        b"POST /echo HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/3.7\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_request_whose_end_could_be_read_differently_is_refused(request_: bytes) -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(request_ + sized(b"smuggled", b"POST /smuggled HTTP/1.1\r\nhost: a\r\n"))
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in answer
        assert "/smuggled" not in bench.handler.asked
        assert bench.handler.refusals in ([400], [])


@pytest.mark.parametrize(
    "chunks",
    [b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\n\r\n", b"fffffffffffffffff\r\n", b"3\nabc\n0\n\n", b"g\r\n"],
    ids=["long", "negative", "huge", "bare-lf", "no-number"],
)
async def test_malformed_chunks_end_the_connection(chunks: bytes) -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(POST + b"transfer-encoding: chunked\r\n\r\n")
        await bench.handler.begun.wait()
        client.send(chunks + sized(b"smuggled", b"POST /smuggled HTTP/1.1\r\nhost: a\r\n"))
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert bench.handler.asked == ["/echo"]


@pytest.mark.parametrize("waste", [b"1;" + b"x" * 8000 + b"\r\na\r\n", b"0\r\n" + b"t: x\r\n" * 1000])
async def test_chunk_extensions_and_trailers_are_bounded(waste: bytes) -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(POST + b"transfer-encoding: chunked\r\n\r\n")
        answering = asyncio.create_task(client.rest())
        while not answering.done() and not client.reader._buffer:  # type: ignore[attr-defined]
            client.send(waste)
            waste = waste.removeprefix(b"0\r\n")
            await asyncio.sleep(0.005)
        assert (await answering).startswith(b"HTTP/1.1 431 ")


async def test_garbage_after_a_request_does_not_disturb_its_answer() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await bench.client()
        client.send(sized(b"good") + b"\x00\x01\x02 garbage\r\n\r\n")
        await bench.handler.begun.wait()
        bench.handler.gate.set()
        assert await client.answer() == (200, b"good")
        assert await client.rest() == b""


async def test_body_that_nobody_asked_for_is_held_back() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await bench.client()
        client.send(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 90000000\r\n\r\n")
        assert (await client.answer())[0] == 401
        # Thrown away as it comes, so that the client reads its answer.
        client.send(b"x" * 3_000_000)
        await asyncio.wait_for(client.writer.drain(), 60)
