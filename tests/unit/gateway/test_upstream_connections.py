"""Connections of the upstream client: kept, replaced when stale, closed when a request is given up."""

import asyncio

import pytest

from proserve_gateway.upstream.client import UpstreamClient, request_head
from proserve_gateway.upstream.exchange import FailureKind, UpstreamError, UpstreamLimits
from scripted_engine import CHUNKED, answering, read_request, serving, sized


async def test_connection_is_kept_for_the_next_request() -> None:
    async with serving(answering(sized(b"one"), sized(b"two"))) as (engine, server):
        assert await (await engine.ask()).read_all(10) == b"one"
        assert await (await engine.ask()).read_all(10) == b"two"
        assert server.connections == 1


async def test_stale_connection_is_replaced_when_no_byte_of_an_answer_came() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(sized(b"ok"))
        await writer.drain()
        await read_request(reader)  # the second request on this connection is read and never answered

    async with serving(handler) as (engine, server):
        await (await engine.ask()).read_all(10)
        assert await (await engine.ask()).read_all(10) == b"ok"
        assert server.connections == 2


async def test_new_connection_that_closes_unanswered_is_not_tried_again() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)

    async with serving(handler) as (engine, server):
        with pytest.raises(UpstreamError, match="before it answered") as caught:
            await engine.ask()
        assert caught.value.kind is FailureKind.CLOSED
        assert server.connections == 1


async def test_refused_connection_names_the_address() -> None:
    async with serving(answering()) as (engine, server):
        pass
    client = UpstreamClient()
    with pytest.raises(UpstreamError, match=f"127.0.0.1:{server.port}") as caught:
        await client.request(engine.endpoint, request_head(engine.endpoint, "POST", "/v1/completions"))
    assert caught.value.kind is FailureKind.CONNECT


async def test_abort_closes_the_connection_at_once() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + b"1\r\na\r\n")
        await reader.read()

    async with serving(handler) as (engine, server):
        exchange = await engine.ask()
        exchange.abort()
        await asyncio.wait_for(server.ended[0].wait(), 60)
        assert engine.client.open_exchanges == 0


async def test_body_that_cannot_be_made_leaves_no_connection_behind() -> None:
    def fail() -> bytes:
        raise ZeroDivisionError

    async with serving(answering(sized(b"one"))) as (engine, _):
        with pytest.raises(ZeroDivisionError):
            await engine.client.request(engine.endpoint, request_head(engine.endpoint, "POST", "/v1/x"), fail)
        assert engine.client.open_exchanges == 0
        async with asyncio.timeout(60):
            while engine.client.connections:  # noqa: ASYNC110 - what is awaited is seen from outside
                await asyncio.sleep(0.002)


async def test_cancelled_caller_aborts_the_exchange() -> None:
    asked = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await reader.read()

    async with serving(handler) as (engine, server):
        task = asyncio.create_task(engine.ask())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.ended[0].wait(), 60)
        assert engine.client.open_exchanges == 0


async def test_abort_of_a_finished_exchange_leaves_the_next_one_on_its_connection_alone() -> None:
    async with serving(answering(sized(b"one"), sized(b"two"))) as (engine, server):
        first = await engine.ask()
        await first.read_all(10)
        second = await engine.ask()
        first.abort()
        assert await second.read_all(10) == b"two"
        assert server.connections == 1


async def test_bytes_nobody_asked_for_never_answer_the_next_request() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(sized(b"mine") + sized(b"not yours"))
        await reader.read()

    async with serving(handler) as (engine, server):
        assert await (await engine.ask()).read_all(10) == b"mine"
        await asyncio.wait_for(server.ended[0].wait(), 60)
        assert await (await engine.ask()).read_all(10) == b"mine"
        assert server.connections == 2


async def test_engine_that_asks_to_close_gets_a_new_connection_next_time() -> None:
    async with serving(answering(sized(b"ok", extra=b"connection: close\r\n"))) as (engine, server):
        await (await engine.ask()).read_all(10)
        await (await engine.ask()).read_all(10)
        assert server.connections == 2


async def test_idle_connection_is_dropped_before_the_engine_would() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(sized(b"ok"))
        await reader.read()

    async with serving(handler, UpstreamLimits(keep_alive_s=0.04)) as (engine, server):
        await (await engine.ask()).read_all(10)
        await asyncio.wait_for(server.ended[0].wait(), 60)
