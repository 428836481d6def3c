"""Bodies are freed as soon as their requests have ended, and not only when the garbage collector comes: it counts
objects and no bytes, so it comes late where prompts are long."""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator

import pytest

from fake_openai_engine import Behaviour, FakeEngine, FakeRequest, Reply, fake_engine
from faults import be_busy, chunked, refuse, report_an_error, saying, token
from gateway_builders import Gateway, gateway
from proserve_gateway.fleet.health import EngineHealth
from raw_http import POST, sized

BODY_BYTES = 2**20
REQUESTS = 8


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


async def hang(request: FakeRequest, reply: Reply) -> None:
    await asyncio.sleep(60)


async def begin_and_hang(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.event({"choices": [{"index": 0, "text": "t"}]})
    await asyncio.sleep(60)


def long_request(*, stream: bool, head: bytes = POST) -> bytes:
    start = b'{"model":"tiny","stream":%s,"prompt":"' % (b"true" if stream else b"false")
    return sized(start + b"a" * BODY_BYTES + b'"}', head)


async def settled(gate: Gateway, engine: FakeEngine) -> None:
    """Nothing is under way any more."""
    async with asyncio.timeout(60):
        while gate.upstream.open_exchanges or gate.sample(  # noqa: ASYNC110 - what is awaited is seen from outside
            "requests_in_flight", cls="high", tenant="gold", model="tiny"
        ):
            await asyncio.sleep(0.002)
    await asyncio.sleep(0.01)
    engine.requests.clear()


async def leave(gate: Gateway, engine: FakeEngine, *, stream: bool) -> None:
    """Once the engine has the request, or the first of its answer is here."""
    engine.behave = begin_and_hang if stream else hang
    engine.asked.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
    writer.write(long_request(stream=stream))
    await engine.asked.wait()
    if stream:
        await reader.readuntil(b"data: ")
    writer.transport.abort()


async def leave_before_the_answer(gate: Gateway, engine: FakeEngine) -> None:
    await leave(gate, engine, stream=False)


async def leave_inside_the_answer(gate: Gateway, engine: FakeEngine) -> None:
    await leave(gate, engine, stream=True)


async def close_after_the_answer(gate: Gateway, engine: FakeEngine) -> None:
    """As nginx does towards upstreams by default."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
    writer.write(long_request(stream=False, head=POST + b"connection: close\r\n"))
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def answer(gate: Gateway, engine: FakeEngine, behave: Behaviour, *, stream: bool = False) -> None:
    engine.behave = behave
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
    writer.write(long_request(stream=stream, head=POST + b"connection: close\r\n"))
    await reader.read()
    writer.close()
    for known in gate.fleet.engines:
        known.health = EngineHealth()


async def refused_by_the_engine(gate: Gateway, engine: FakeEngine) -> None:
    await answer(gate, engine, refuse)


async def too_much_for_the_engine(gate: Gateway, engine: FakeEngine) -> None:
    await answer(gate, engine, be_busy)


async def failed_by_the_engine(gate: Gateway, engine: FakeEngine) -> None:
    await answer(gate, engine, saying(b"HTTP/1.1 nonsense\r\n\r\n"))


async def broken_stream(gate: Gateway, engine: FakeEngine) -> None:
    await answer(gate, engine, saying(chunked(token(0), b"data: <html>\n\n")), stream=True)


async def error_before_the_first_token(gate: Gateway, engine: FakeEngine) -> None:
    await answer(gate, engine, report_an_error, stream=True)


ENDINGS = [
    leave_before_the_answer, leave_inside_the_answer, close_after_the_answer, refused_by_the_engine,
    too_much_for_the_engine, failed_by_the_engine, broken_stream, error_before_the_first_token,
]  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
async def test_body_is_freed_with_its_request(ending: Callable[[Gateway, FakeEngine], Awaitable[None]]) -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        await ending(gate, engine)
        await settled(gate, engine)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(REQUESTS):
            await ending(gate, engine)
            await settled(gate, engine)
        # On a busy machine the fake engine hears a moment later that its clients have left; what is leaked stays.
        for _ in range(500):
            left = tracemalloc.get_traced_memory()[0] - before
            if left < BODY_BYTES:
                break
            await asyncio.sleep(0.02)
        assert left < BODY_BYTES, f"{left / 2**20 / REQUESTS:.2f} MiB a request"


async def test_body_is_kept_once_while_an_engine_computes() -> None:
    received, all_there = 0, asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        while data := await reader.read(2**18):
            received += len(data)
            if received > REQUESTS * BODY_BYTES:
                all_there.set()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    engine = FakeEngine("silent")
    engine.port = server.sockets[0].getsockname()[1]
    sent = long_request(stream=False)
    async with gateway(engine) as gate:
        before = tracemalloc.get_traced_memory()[0]
        writers = [(await asyncio.open_connection("127.0.0.1", gate.server.port))[1] for _ in range(REQUESTS)]
        for writer in writers:
            writer.write(sent)
        async with asyncio.timeout(60):
            await all_there.wait()
        await asyncio.sleep(0.05)
        held = tracemalloc.get_traced_memory()[0] - before
        assert held < 1.5 * REQUESTS * BODY_BYTES, f"{held / REQUESTS / BODY_BYTES:.2f} bodies a request"
        for writer in writers:
            writer.transport.abort()
    server.close()
