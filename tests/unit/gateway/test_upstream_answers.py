"""What the upstream client makes of answers: whole, in pieces, cut off, nonsense, too large, too late."""

import asyncio

import pytest

from proserve_gateway.upstream.exchange import FailureKind, UpstreamError, UpstreamLimits
from scripted_engine import CHUNKED, answering, read_request, serving, sized

HEAD, ONE = b"HTTP/1.1 200 OK\r\nx: ", b"1\r\na\r\n"


async def test_request_carries_body_length_and_the_endpoints_key() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(sized(b"ok"))

    async with serving(handler) as (engine, _):
        exchange = await engine.ask(b'{"a": 1}')
        assert (exchange.status, await exchange.read_all(100)) == (200, b"ok")
    head, body = seen[0]
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nauthorization: Bearer s3cret\r\n" in head
    assert body == b'{"a": 1}'


async def test_chunks_arrive_as_they_are_sent() -> None:
    release = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + b"5\r\nfirst\r\n")
        await release.wait()
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")

    async with serving(handler) as (engine, _):
        exchange = await engine.ask()
        assert await exchange.read() == b"first"
        release.set()
        assert await exchange.read() == b"second"
        assert await exchange.read() == b""


async def test_chunks_of_one_read_come_in_one_piece() -> None:
    async with serving(answering(CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")) as (engine, _):
        exchange = await engine.ask()
        assert await exchange.read() == b"ab"


async def test_informational_answer_is_skipped() -> None:
    async with serving(
        answering(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + sized(b"ok", extra=b"x-a: 1\r\n"))
    ) as (
        engine,
        _,
    ):
        exchange = await engine.ask()
        assert exchange.status == 200
        assert (exchange.header(b"x-a"), exchange.header(b"link")) == (b"1", None)
        assert await exchange.read_all(10) == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(CHUNKED + b"5\r\nfirst\r\n", id="no last chunk"),
        pytest.param(CHUNKED + b"5\r\nfirst\r\n9\r\nsec", id="inside a chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfirst", id="short of content-length"),
    ],
)
async def test_truncated_body_is_an_error_after_what_came(answer: bytes) -> None:
    async with serving(answering(answer)) as (engine, _):
        exchange = await engine.ask()
        assert (await exchange.read()).startswith(b"first")
        with pytest.raises(UpstreamError, match="inside its answer") as caught:
            await exchange.read()
        assert caught.value.kind is FailureKind.TRUNCATED


async def test_truncated_head_is_an_error() -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\ncontent-le")) as (engine, _):
        with pytest.raises(UpstreamError) as caught:
            await engine.ask()
        assert caught.value.kind is FailureKind.TRUNCATED


async def test_reset_inside_the_body_is_an_error() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + b"5\r\nfirst\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.transport.abort()

    async with serving(handler) as (engine, _):
        exchange = await engine.ask()
        assert await exchange.read() == b"first"
        with pytest.raises(UpstreamError):
            await exchange.read()


async def test_body_that_ends_with_the_connection_is_complete() -> None:
    async with serving(answering(b"HTTP/1.0 200 OK\r\n\r\nall of it")) as (engine, _):
        assert await (await engine.ask()).read_all(100) == b"all of it"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another protocol"),
        pytest.param(CHUNKED + b"zz\r\nfirst\r\n", id="chunk size"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nfirst", id="two framings"
        ),
        pytest.param(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", id="upgrade"),
    ],
)
async def test_nonsense_is_a_protocol_error(answer: bytes) -> None:
    async with serving(answering(answer)) as (engine, _):
        with pytest.raises(UpstreamError) as caught:
            await engine.ask_all()
        assert caught.value.kind is FailureKind.PROTOCOL


@pytest.mark.parametrize(
    "header", [b"x: " + b"a" * 5000, b"x: a\r\n" * 1000], ids=["one endless header", "many headers"]
)
async def test_headers_beyond_the_limit_are_refused(header: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(header)
            await writer.drain()

    async with serving(handler, UpstreamLimits(head_bytes=4096)) as (engine, _):
        with pytest.raises(UpstreamError, match="larger than 4096 bytes"):
            await engine.ask()


async def test_headers_beyond_the_limit_in_one_piece_are_refused() -> None:
    async with serving(
        answering(sized(b"ok", extra=b"x: %s\r\n" % (b"a" * 5000))), UpstreamLimits(head_bytes=4096)
    ) as (
        engine,
        _,
    ):
        with pytest.raises(UpstreamError, match="larger than 4096 bytes"):
            await engine.ask()


@pytest.mark.parametrize(
    ("answer", "drip", "limits", "kind"),
    [
        pytest.param(b"", b"", UpstreamLimits(head_s=0.05), FailureKind.HEAD_TIMEOUT, id="no head"),
        pytest.param(b"HTTP/1.1 2", b"", UpstreamLimits(head_s=0.05), FailureKind.HEAD_TIMEOUT, id="part of a head"),
        pytest.param(HEAD, b"x", UpstreamLimits(head_s=0.05), FailureKind.HEAD_TIMEOUT, id="head that drips"),
        pytest.param(CHUNKED + ONE, b"", UpstreamLimits(idle_s=0.05), FailureKind.IDLE_TIMEOUT, id="silent body"),
        pytest.param(CHUNKED + ONE, b"", UpstreamLimits(total_s=0.05), FailureKind.TOTAL_TIMEOUT, id="too long"),
        pytest.param(CHUNKED, ONE, UpstreamLimits(total_s=0.05), FailureKind.TOTAL_TIMEOUT, id="body that drips"),
    ],
)
async def test_time_out_fails_the_exchange_and_closes_the_connection(
    answer: bytes, drip: bytes, limits: UpstreamLimits, kind: FailureKind
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        left = asyncio.ensure_future(reader.read())
        while not left.done():
            writer.write(drip)
            await asyncio.wait({left}, timeout=0.005 if drip else None)

    async with serving(handler, limits) as (engine, server):
        with pytest.raises(UpstreamError) as caught:
            await engine.ask_all()
        assert caught.value.kind is kind
        await server.ended[0].wait()
        assert engine.client.open_exchanges == 0


async def test_unread_body_stops_the_engine_from_sending_and_memory_stays_bounded() -> None:
    sent = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(CHUNKED)
        for _ in range(1024):
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536
        writer.write(b"0\r\n\r\n")

    async with serving(handler, UpstreamLimits(buffer_bytes=65536)) as (engine, _):
        exchange = await engine.ask()
        before = -1
        while before != sent:  # until neither side makes progress
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 32 * 2**20
        received = 0
        while piece := await exchange.read():
            assert len(piece) <= 65536 + 262144
            received += len(piece)
        assert received == 1024 * 65536


async def test_reader_that_takes_nothing_is_cut_with_that_reason() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await reader.read()

    async with serving(handler, UpstreamLimits(buffer_bytes=1000, stall_s=0.05)) as (engine, server):
        exchange = await engine.ask()
        await server.ended[0].wait()
        with pytest.raises(UpstreamError) as caught:
            await exchange.read_all(100_000)
        assert caught.value.kind is FailureKind.STALLED


async def test_answer_beyond_the_size_limit_is_refused() -> None:
    async with serving(answering(sized(b"x" * 2000))) as (engine, _):
        exchange = await engine.ask()
        with pytest.raises(UpstreamError, match="larger than 1000 bytes"):
            await exchange.read_all(1000)


async def test_pumped_answer_is_given_as_it_comes_until_enough() -> None:
    release = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in (b"one", b"two", b"end"):
            writer.write(b"3\r\n%s\r\n" % piece if piece != b"one" else CHUNKED + b"3\r\none\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        await release.wait()
        writer.write(b"4\r\nmore\r\n0\r\n\r\n")

    async with serving(handler) as (engine, _):
        exchange = await engine.ask()
        taken = bytearray()

        def take(data: bytes) -> bool:
            taken.extend(data)
            return not taken.endswith(b"end")

        await exchange.pump(take)
        assert taken == b"onetwoend"
        release.set()
        assert await exchange.read() == b"more"
        await exchange.pump(take)
        assert await exchange.read() == b""


async def test_pumped_answer_that_breaks_is_told_by_the_next_read() -> None:
    taken: list[bytes] = []

    async with serving(answering(CHUNKED + b"5\r\nfirst\r\n")) as (engine, _):
        exchange = await engine.ask()

        def take(data: bytes) -> bool:
            taken.append(data)
            return True

        await exchange.pump(take)
        assert taken == [b"first"]
        with pytest.raises(UpstreamError) as caught:
            await exchange.read()
        assert caught.value.kind is FailureKind.TRUNCATED


async def test_fault_of_whoever_is_pumped_to_reaches_the_waiting_task() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED)
        await asyncio.sleep(0.02)
        writer.write(b"1\r\na\r\n")
        await asyncio.sleep(10)

    def take(_: bytes) -> bool:
        raise LookupError("a fault")

    async with serving(handler) as (engine, _):
        exchange = await engine.ask()
        with pytest.raises(LookupError, match="a fault"):
            await asyncio.wait_for(exchange.pump(take), 60)
        exchange.abort()
