"""The data port's HTTP server alone: order, limits, and nothing that two proxies could read differently."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from proserve_gateway.data_server import DataServer
from proserve_gateway.errors import ApiError
from proserve_gateway.http_request import BodyTooLargeError, BodyTooSlowError, HttpRequest

POST = b"POST /echo HTTP/1.1\r\nhost: here\r\n"
LARGE = bytes(16_000_000)


class Echo:
    """Answers with what it was asked; `/stream` in pieces, `/early` before the body is here, `/large` with more than
    sockets hold, `/fault` not at all."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refusals: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def __call__(self, request: HttpRequest) -> None:
        self.asked.append(request.path)
        if request.path == "/early":
            request.reply(401, [], b"who are you?")
            return
        if request.path == "/large":
            request.reply(200, [], LARGE)
            return
        if request.path == "/fault":
            raise RuntimeError("a fault")
        try:
            body = await request.body(most_bytes=100_000, most_s=0.1)
            await self.gate.wait()
        except BodyTooLargeError:
            request.reply(413, [], b"")
        except BodyTooSlowError:
            request.keep_alive = False
            request.reply(408, [], b"")
        except ApiError as error:
            request.reply(error.status, [], error.body())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        else:
            if request.path == "/stream":
                request.start(200, [(b"x-kind", b"stream")], b"begin ")
                request.write(body)
                request.end(b" end")
            else:
                request.reply(200, [(b"x-path", request.path.encode())], body)

    def refused(self, error: ApiError) -> None:
        self.refusals.append(error.status)


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        status = int(head.split(b" ", 2)[1])
        found = re.search(rb"content-length: (\d+)", head)
        if found is not None:
            return status, await asyncio.wait_for(self.reader.readexactly(int(found[1])), 10)
        assert b"transfer-encoding: chunked" in head
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return status, body

    async def rest(self) -> bytes:
        """All until the server closes."""
        return await asyncio.wait_for(self.reader.read(), 10)


class Bench:
    def __init__(self, server: DataServer, handler: Echo) -> None:
        self.server, self.handler = server, handler
        self.clients: list[Client] = []

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.server.port))
        self.clients.append(client)
        return client


@contextlib.asynccontextmanager
async def serving(
    *, head_s: float = 30.0, keep_alive_s: float = 75.0, most_connections: int | None = None
) -> AsyncIterator[Bench]:
    handler = Echo()
    server = DataServer(
        handler, host="127.0.0.1", port=0, head_s=head_s, keep_alive_s=keep_alive_s, most_connections=most_connections
    )
    await server.start()
    bench = Bench(server, handler)
    try:
        yield bench
    finally:
        for client in bench.clients:
            client.writer.close()
        server.close()
        await server.wait_closed(0.0)


def sized(body: bytes, head: bytes = POST) -> bytes:
    return head + b"content-length: %d\r\n\r\n%s" % (len(body), body)


async def test_requests_on_one_connection_are_answered_in_turn() -> None:
    async with serving() as bench:
        client = await bench.client()
        for body in (b"one", b"", b"x" * 70_000):
            client.send(sized(body))
            assert await client.answer() == (200, body)
        client.send(sized(b"middle", b"POST /stream HTTP/1.1\r\nhost: a\r\n"))
        assert await client.answer() == (200, b"begin middle end")


async def test_request_that_comes_byte_by_byte_is_understood() -> None:
    async with serving() as bench:
        client = await bench.client()
        client.writer.transport.set_write_buffer_limits(0)
        whole = POST + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        for number in range(len(whole)):
            client.send(whole[number : number + 1])
            await asyncio.sleep(0)
        assert await client.answer() == (200, b"abcde")


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await bench.client()
        client.send(
            b"".join(sized(b"%d" % number, b"POST /%d HTTP/1.1\r\nhost: a\r\n" % number) for number in range(5))
        )
        await asyncio.sleep(0.05)
        assert bench.handler.asked == ["/0"]
        bench.handler.gate.set()
        assert [(await client.answer())[1] for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_pipelined_request_waits_until_the_client_has_taken_the_answer_before() -> None:
    async with serving() as bench:
        client = await bench.client()
        for number in range(3):
            client.send(sized(b"", b"POST /large HTTP/1.1\r\nhost: a\r\n") + sized(b"%d" % number))
            await asyncio.sleep(0.05)
        assert bench.handler.asked == ["/large"]
        for number in range(3):
            assert await client.answer() == (200, LARGE)
            assert await client.answer() == (200, b"%d" % number)


async def test_client_that_takes_nothing_is_closed_like_an_idle_one_and_its_next_request_never_begins() -> None:
    async with serving(keep_alive_s=0.1) as bench:
        client = await bench.client()
        client.send(sized(b"", b"POST /large HTTP/1.1\r\nhost: a\r\n") + sized(b"next"))
        await asyncio.sleep(0.5)
        answer = await client.rest()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.endswith(LARGE)
        assert bench.handler.asked == ["/large"]


async def test_pipelined_requests_beyond_what_is_read_ahead_wait_their_turn() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await bench.client()
        for number in range(40):
            client.send(sized(b"%d" % number * 30_000))
        await asyncio.sleep(0.05)
        bench.handler.gate.set()
        for number in range(40):
            assert await client.answer() == (200, b"%d" % number * 30_000)


async def test_endless_pipelining_is_cut_after_what_was_taken() -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 200)
        answers = (await client.rest()).count(b"HTTP/1.1 200")
        assert answers == len(bench.handler.asked) < 40


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
        await asyncio.sleep(0.01)
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
        await asyncio.sleep(0.05)
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
        await asyncio.wait_for(client.writer.drain(), 10)


async def test_connection_goes_on_after_a_refused_body() -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(sized(b"x" * 300_000))
        assert (await client.answer())[0] == 413
        client.send(sized(b"small"))
        assert await client.answer() == (200, b"small")


async def test_client_that_waits_for_leave_to_send_its_body_gets_it() -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(POST + b"content-length: 4\r\nexpect: 100-continue\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        client.send(b"body")
        assert await client.answer() == (200, b"body")


async def test_late_body_is_told_and_late_head_and_idle_connection_are_closed() -> None:
    async with serving(head_s=0.1, keep_alive_s=0.1) as bench:
        silent, slow, body, idle = [await bench.client() for _ in range(4)]
        slow.send(b"POST / HTTP/1.1\r\nx: ")
        body.send(POST + b"content-length: 10\r\n\r\nabc")
        idle.send(sized(b""))
        assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
        assert (await body.rest()).startswith(b"HTTP/1.1 408 ")
        assert await idle.answer() == (200, b"")
        assert await idle.rest() == b""
        assert await silent.rest() == b""


async def test_too_many_connections_cost_the_one_that_waits_longest() -> None:
    async with serving(most_connections=2) as bench:
        bench.handler.gate.clear()
        busy = await bench.client()
        busy.send(sized(b"busy"))
        await asyncio.sleep(0.01)
        waiting = await bench.client()
        await asyncio.sleep(0.01)
        third = await bench.client()
        with contextlib.suppress(ConnectionError):
            assert await waiting.rest() == b""
        bench.handler.gate.set()
        third.send(sized(b"third"))
        assert await busy.answer() == (200, b"busy")
        assert await third.answer() == (200, b"third")


async def test_http_1_0_gets_what_it_understands() -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(b"POST /echo HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"connection: keep-alive" in head
        assert await client.reader.readexactly(2) == b"hi"
        client.send(b"POST /stream HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi")
        assert (await client.rest()).endswith(b"\r\n\r\nbegin hi end")


async def test_head_request_gets_no_body() -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(b"HEAD /early HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert (await client.rest()).endswith(b"content-length: 12\r\nconnection: close\r\n\r\n")


@pytest.mark.parametrize("requests", [1, 2, 10])
async def test_leaving_client_cancels_its_handler(requests: int) -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await bench.client()
        client.send(sized(b"x") * requests)
        await asyncio.sleep(0.05)
        client.writer.transport.abort()
        async with asyncio.timeout(5):
            while not bench.handler.cancelled:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_fault_of_the_handler_cuts_the_connection_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(sized(b"x", b"POST /fault HTTP/1.1\r\nhost: a\r\n"))
        with contextlib.suppress(ConnectionError):
            assert await client.rest() == b""
        assert "a fault" in caplog.text


async def test_header_with_a_line_break_is_never_sent() -> None:
    async with serving() as bench:
        client = await bench.client()
        bench.handler.asked = []
        client.send(b"GET /x%0d%0ainjected HTTP/1.1\r\nhost: a\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"injected" not in await client.rest()


async def test_closing_server_answers_what_is_open_and_closes_what_is_idle() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        busy, idle = await bench.client(), await bench.client()
        busy.send(sized(b"last"))
        await asyncio.sleep(0.05)
        bench.server.close()
        assert await idle.rest() == b""
        assert not await bench.server.drained(0.05)
        bench.handler.gate.set()
        answer = await busy.rest()
        assert answer.endswith(b"last")
        assert b"connection: close" in answer
        assert await bench.server.drained(5)


async def test_closing_server_takes_the_rest_of_a_body_and_nothing_after_it() -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(POST + b"content-length: 10\r\n\r\nfirst")
        await asyncio.sleep(0.05)
        bench.server.close()
        client.send(b"rest." + sized(b"too late"))
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"firstrest.")
        assert b"connection: close" in answer
        assert bench.handler.asked == ["/echo"]


async def test_closing_server_takes_the_rest_of_a_pipelined_body() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        client = await bench.client()
        client.send(sized(b"one") + POST + b"content-length: 3\r\n\r\nt")
        await asyncio.sleep(0.05)
        bench.server.close()
        client.send(b"wo")
        bench.handler.gate.set()
        assert await client.answer() == (200, b"one")
        assert (await client.rest()).endswith(b"two")


async def test_closing_server_lets_go_of_who_sends_the_rest_of_a_refused_body() -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n")
        assert (await client.answer())[0] == 401
        bench.server.close()
        client.send(b"unread....")
        assert await client.rest() == b""
        assert await bench.server.drained(5)
