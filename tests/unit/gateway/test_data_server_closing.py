"""The data port's HTTP server alone: how it ends."""

import asyncio

from data_server_bench import POST, serving, sized


async def test_closing_server_answers_what_is_open_and_closes_what_is_idle() -> None:
    async with serving() as bench:
        bench.handler.gate.clear()
        busy, idle = await bench.client(), await bench.client()
        busy.send(sized(b"last"))
        await bench.handler.begun.wait()
        bench.server.close()
        assert await idle.rest() == b""
        assert not await bench.server.drained(0.05)
        bench.handler.gate.set()
        answer = await busy.rest()
        assert answer.endswith(b"last")
        assert b"connection: close" in answer
        assert await bench.server.drained(60)


async def test_closing_server_takes_the_rest_of_a_body_and_nothing_after_it() -> None:
    async with serving() as bench:
        client = await bench.client()
        client.send(POST + b"content-length: 10\r\n\r\nfirst")
        await bench.handler.begun.wait()
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
        assert await bench.server.drained(60)
