"""The data port's HTTP server behind TLS: connections whose handshake is not done are bounded like all others."""

import asyncio
import contextlib
import logging

import pytest

from data_server_bench import Bench, Client, serving, sized
from proserve_gateway.http import tls_listener
from tls_files import client_context, server_context


@pytest.fixture(autouse=True)
def _no_handshake_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends one is what the test is about."""
    monkeypatch.setattr(tls_listener, "HANDSHAKE_S", 600.0)


async def encrypted(bench: Bench) -> Client:
    """A client whose handshake is done."""
    streams = await asyncio.open_connection(
        "127.0.0.1", bench.server.port, ssl=client_context("first"), server_hostname="localhost"
    )
    bench.clients.append(Client(*streams))
    return bench.clients[-1]


async def busy(bench: Bench, body: bytes) -> Client:
    """A client whose request is being answered until the handler's gate opens."""
    bench.handler.gate.clear()
    client = await encrypted(bench)
    client.send(sized(body))
    await bench.handler.begun.wait()
    return client


async def ended(client: Client) -> bool:
    with contextlib.suppress(ConnectionError):
        assert await client.rest() == b""
    return True


async def test_flood_of_half_open_handshakes_shuts_nobody_out_and_cuts_no_request() -> None:
    async with serving(most_connections=4, tls=server_context("first")) as bench:
        asking = await busy(bench, b"busy")
        flood = [await bench.client() for _ in range(20)]
        # Part of a hello is as good as nothing.
        for each in flood[::2]:
            each.send(b"\x16\x03\x01\x02\x00")
        assert all([await ended(each) for each in flood[:17]])
        late = await encrypted(bench)
        late.send(sized(b"late"))
        bench.handler.gate.set()
        assert await late.answer() == (200, b"late")
        assert await asking.answer() == (200, b"busy")


async def test_failed_handshakes_are_not_counted_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(most_connections=2, tls=server_context("first")) as bench:
        kept = await encrypted(bench)
        for junk in (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\x00\x05hello"):
            client = await bench.client()
            client.send(junk)
            with contextlib.suppress(ConnectionError):
                await client.rest()
        second = await encrypted(bench)
        for client in (kept, second):
            client.send(sized(b"x"))
            assert await client.answer() == (200, b"x")
        (await bench.client()).writer.transport.abort()
        bench.server.close()
        assert await bench.server.drained(60)
    assert not caplog.records


async def test_closing_server_ends_handshakes_and_accepts_no_more() -> None:
    async with serving(tls=server_context("first")) as bench:
        asking, half_open = await busy(bench, b"last"), await bench.client()
        bench.server.close()
        assert await ended(half_open)
        with pytest.raises(ConnectionRefusedError):
            await bench.client()
        bench.handler.gate.set()
        assert await asking.answer() == (200, b"last")
        assert await ended(asking)
        assert await bench.server.drained(60)
