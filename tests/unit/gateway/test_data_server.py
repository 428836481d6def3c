"""The data port's HTTP server alone: order, limits, and who leaves."""

import asyncio
import contextlib

import pytest

from data_server_bench import LARGE, POST, serving, sized


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
        await bench.handler.begun.wait()
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
    async with serving(head_s=0.5, keep_alive_s=0.5) as bench:
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
        await bench.handler.begun.wait()
        waiting = await bench.client()
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
        await bench.handler.begun.wait()
        client.writer.transport.abort()
        async with asyncio.timeout(60):
            while not bench.handler.cancelled:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("body", [bytes(70_000), b""], ids=["bytes", "requests"])
async def test_client_that_leaves_while_nothing_more_is_read_from_it_cancels_its_handler(body: bytes) -> None:
    async with serving(keep_alive_s=1.0) as bench:
        bench.handler.gate.clear()
        client = await bench.client()
        client.send(sized(b"x"))
        await bench.handler.begun.wait()
        client.send(sized(body) * (1 if body else 16))
        await asyncio.sleep(0.05)
        client.writer.transport.abort()
        async with asyncio.timeout(60):
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
