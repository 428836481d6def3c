"""What connections may cost: heads that come slowly or never, more connections than the gateway can hold."""

import asyncio

import pytest

from fake_openai_engine import fake_engine
from gateway_builders import GOLD_KEY, gateway
from proserve_gateway.http.connection import HttpConnection

REQUEST = (
    f"POST /v1/completions HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {GOLD_KEY}\r\ncontent-length: 32\r\n\r\n"
    '{"model": "tiny", "prompt":"hi"}'
).encode()

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(port: int, sent: bytes = b"") -> Stream:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    return reader, writer


async def rest(stream: Stream) -> bytes:
    """Everything until the gateway ends the connection."""
    reader, writer = stream
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionResetError:
        return b"reset"
    finally:
        writer.close()


async def answered(stream: Stream) -> bool:
    """Whether a request on this connection is answered with 200."""
    reader, writer = stream
    writer.write(REQUEST)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    return head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"POST /v1/comp", b"HTTP/1.1 408 "),
        (b"POST /v1/completions HTTP/1.1\r\nhost: here\r\nx: y\r\n", b"HTTP/1.1 408 "),
    ],
    ids=["nothing", "empty lines", "half a line", "half a head"],
)
async def test_head_that_does_not_come_in_time_ends_the_connection(sent: bytes, answer: bytes) -> None:
    async with gateway(head_s=0.5) as gate:
        assert (await rest(await connect(gate.server.port, sent)))[:13] == answer


async def test_head_that_comes_byte_by_byte_is_bounded_too() -> None:
    async with gateway(head_s=0.5) as gate:
        reader, writer = await connect(gate.server.port)
        reading = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        for byte in b"POST /v1/completions HTTP/1.1\r\nx: " + b"y" * 10_000:
            if reading.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.005)
        assert (await reading).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_mistake_with_one_connection_leaves_the_time_outs_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def fail_once(_: HttpConnection) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("a mistake")

    monkeypatch.setattr(HttpConnection, "look_for_end", fail_once)
    async with gateway(head_s=0.5) as gate:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        assert (await rest(await connect(gate.server.port, b"POST /v1/comp")))[:13] == b"HTTP/1.1 408 "
    assert looks >= 1


async def test_second_head_on_a_connection_is_bounded_like_the_first() -> None:
    async with fake_engine() as engine, gateway(engine, head_s=0.5) as gate:
        for begun in (b"POST /v1", b"\r\n\r\n"):
            stream = await connect(gate.server.port)
            assert await answered(stream)
            stream[1].write(begun)
            assert (await rest(stream))[:13] == (b"HTTP/1.1 408 " if begun.startswith(b"POST") else b"")


async def test_answer_may_take_longer_than_the_head() -> None:
    async with fake_engine() as engine, gateway(engine, head_s=0.5) as gate:
        engine.token_gate = asyncio.Event()
        asking = asyncio.create_task(gate.chat(stream=True))
        await engine.asked.wait()
        await asyncio.sleep(1.0)
        engine.token_gate.set()
        assert (await asking).text.endswith("data: [DONE]\n\n")


async def test_flood_of_connections_shuts_nobody_out_and_cuts_no_request() -> None:
    async with fake_engine() as engine, gateway(engine, most_connections=10) as gate:
        engine.token_gate = asyncio.Event()
        asking = asyncio.create_task(gate.chat(stream=True))
        await engine.asked.wait()
        idle = await connect(gate.server.port)
        assert not engine.token_gate.is_set()
        flood = [await connect(gate.server.port, b"POST / HTTP/1.1\r\n") for _ in range(30)]
        assert await rest(idle) in (b"", b"reset")
        client = await connect(gate.server.port)
        client[1].write(b"GET /v1/models HTTP/1.1\r\nhost: here\r\n\r\n")
        assert (await client[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        engine.token_gate.set()
        assert (await asking).text.endswith("data: [DONE]\n\n")
        for _, writer in [*flood, client]:
            writer.close()


async def test_idle_connections_make_room_as_well() -> None:
    async with fake_engine() as engine, gateway(engine, most_connections=3) as gate:
        kept = [await connect(gate.server.port) for _ in range(3)]
        assert [await answered(each) for each in kept] == [True] * 3
        late = await connect(gate.server.port)
        assert await answered(late)
        # The one that was idle longest.
        assert await rest(kept[0]) in (b"", b"reset")
        assert [await answered(each) for each in kept[1:]] == [True] * 2
        for _, writer in [*kept, late]:
            writer.close()


@pytest.mark.parametrize("keyed", [True, False])
async def test_flood_of_bodies_that_do_not_come_shuts_nobody_out_and_cuts_no_request(keyed: bool) -> None:
    key = f"authorization: Bearer {GOLD_KEY}\r\n" if keyed else ""
    head = f"POST /v1/completions HTTP/1.1\r\nhost: here\r\n{key}expect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    async with fake_engine() as engine, gateway(engine, most_connections=4) as gate:
        engine.token_gate = asyncio.Event()
        asking = asyncio.create_task(gate.chat(stream=True))
        await engine.asked.wait()
        flood = []
        for _ in range(6):
            flood.append(await connect(gate.server.port, head.encode()))
            assert (await flood[-1][0].read(13)) == (b"HTTP/1.1 100 " if keyed else b"HTTP/1.1 401 ")
        late = await connect(gate.server.port, b"GET /v1/models HTTP/1.1\r\nhost: here\r\n\r\n")
        assert (await late[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        engine.token_gate.set()
        assert (await asking).text.endswith("data: [DONE]\n\n")
        for _, writer in [*flood, late]:
            writer.close()
