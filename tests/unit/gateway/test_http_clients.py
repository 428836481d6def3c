"""Clients over HTTP that leave, or take nothing: the engine stops, memory stays bounded."""

import asyncio

import pytest

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import GOLD_KEY, Gateway, gateway
from openai_replies import AUTH
from proserve_core.gain import LossCause


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_before_the_first_byte_aborts_at_the_engine(stream: bool) -> None:
    async def hang(request: FakeRequest, reply: Reply) -> None:
        await asyncio.sleep(60)

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = hang
        asking = asyncio.create_task(gate.chat(stream=stream))
        await engine.asked.wait()
        asking.cancel()
        await asyncio.wait_for(engine.client_left.wait(), 60)
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="client_cancel") > 0
        assert gate.sample("requests_in_flight", cls="high", tenant="gold", model="tiny") == 0


async def test_client_that_gives_up_an_answer_that_is_late_is_not_blamed_for_that() -> None:
    now_s = 0.0

    async def hang(request: FakeRequest, reply: Reply) -> None:
        await asyncio.sleep(60)

    async with fake_engine() as engine, gateway(engine, clock=lambda: now_s) as gate:
        engine.behave = hang
        asking = asyncio.create_task(gate.chat(max_tokens=3))
        await engine.asked.wait()
        now_s = 30.0  # its objectives are 0.5 s and 0.04 s
        asking.cancel()
        await asyncio.wait_for(engine.client_left.wait(), 60)
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="late_first_token") > 0
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="late_token_queued") > 0
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="client_cancel") == 0
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="499") == 1


async def test_client_that_does_not_take_its_answer_and_leaves_is_blamed_for_what_did_not_come() -> None:
    now_s = 0.0
    async with fake_engine() as engine, gateway(engine, clock=lambda: now_s) as gate:
        engine.behave = endless
        _, writer = await ask_and_never_read(gate)
        async with asyncio.timeout(60):
            while not any(exchange.paused for exchange in gate.upstream._active):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        now_s = 30.0
        writer.transport.abort()
        await asyncio.wait_for(engine.client_left.wait(), 60)
        lost = gate.accounting.ledger.total().lost
        assert set(lost) <= {LossCause.CLIENT_CANCEL}


async def test_client_that_leaves_inside_a_stream_aborts_at_the_engine() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        engine.token_gate = asyncio.Event()
        body = {"model": "tiny", "messages": [], "stream": True, "max_tokens": 10}
        async with gate.client.stream("POST", "/v1/chat/completions", json=body, headers=AUTH) as reply:
            lines = reply.aiter_lines()
            while "t1 " not in await anext(lines):
                pass
        await asyncio.wait_for(engine.client_left.wait(), 60)
        assert gate.sample("output_tokens_total", cls="high", tenant="gold", model="tiny") == 2
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="client_cancel") > 0
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="499") == 1


async def endless(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    while True:
        await reply.event({"choices": [{"index": 0, "delta": {"content": "x" * 10_000}}]})


async def ask_and_never_read(gate: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Both must be kept: a connection without its reader takes everything and throws it away."""
    body = b'{"model":"tiny","messages":[],"stream":true}'
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port, limit=1024)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {GOLD_KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    return reader, writer


async def test_slow_client_stops_the_engine_instead_of_filling_memory() -> None:
    sent = 0

    async def counted(request: FakeRequest, reply: Reply) -> None:
        nonlocal sent
        await reply.start_stream()
        while True:
            await reply.event({"choices": [{"index": 0, "delta": {"content": "x" * 10_000}}]})
            sent += 10_000

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = counted
        reader, writer = await ask_and_never_read(gate)
        before = -1
        while before != sent or not sent:  # until nobody makes progress
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 40 * 2**20
        assert not reader.at_eof()
        writer.transport.abort()
        await asyncio.wait_for(engine.client_left.wait(), 60)


async def test_client_that_takes_nothing_is_cut() -> None:
    async with fake_engine() as engine, gateway(engine, stall_ms=300) as gate:
        engine.behave = endless
        reader, writer = await ask_and_never_read(gate)
        await asyncio.wait_for(engine.client_left.wait(), 60)
        assert not reader.at_eof()
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="499") == 1
        writer.close()
