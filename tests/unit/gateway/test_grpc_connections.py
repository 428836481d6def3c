"""What connections to the gRPC port and calls on them may cost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from grpc_bench import KEY, PROMPT, Bench, running_bench
from proserve_gateway.grpc.limits import GrpcLimits

LONG_S = 600.0


async def connect(bench: Bench) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = bench.address.split(":")
    return await asyncio.open_connection(host, int(port))


async def ended(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    reader, writer = streams
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return True


async def without_message(
    bench: Bench, method: str, metadata: Any, *, half_close: bool = False
) -> grpc.aio.AioRpcError:
    """How a call ends that never sends its message."""

    messages: tuple[bytes, ...] = ()

    async def nothing() -> AsyncIterator[bytes]:
        if not half_close:
            await asyncio.sleep(LONG_S)
        for message in messages:
            yield message

    call: Any = bench.channel.stream_stream(f"/proserve.v1.Inference/{method}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call(nothing(), metadata=metadata, timeout=60):
            pass
    return caught.value


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_call_without_a_key_ends_before_its_message_comes(bench: Bench, method: str) -> None:
    error = await without_message(bench, method, ())
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_message_that_does_not_come_ends_its_call(method: str) -> None:
    async with running_bench(grpc_limits=GrpcLimits(message_s=0.1)) as bench:
        error = await without_message(bench, method, KEY)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "did not arrive within 0.1 s" in str(error.details())
        assert bench.requests("408") == 1


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_message_that_is_waited_for_takes_room_of_its_tenants_bodies(method: str) -> None:
    limits = GrpcLimits(message_bytes=10_000, message_at_once_s=0.0)
    async with running_bench(grpc_limits=limits, body_bytes=9_999) as bench:
        error = await without_message(bench, method, KEY)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "tenant acme's requests under way" in str(error.details())
        assert (bench.requests("429"), bench.requests("408")) == (1, 0)


async def test_room_for_a_message_that_did_not_come_is_given_back() -> None:
    limits = GrpcLimits(message_bytes=10_000, message_at_once_s=0.0, message_s=0.1)
    async with running_bench(grpc_limits=limits, body_bytes=20_000) as bench:
        for _ in range(3):
            error = await without_message(bench, "Generate", KEY)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_burst_of_calls_whose_messages_are_there_finds_room() -> None:
    limits = GrpcLimits(message_bytes=10_000, message_at_once_s=LONG_S)
    async with running_bench(grpc_limits=limits, body_bytes=20_000) as bench:
        calls = [bench.stub.Generate(PROMPT, metadata=KEY) for _ in range(20)]
        assert [reply.text for reply in await asyncio.gather(*calls)] == ["a b c"] * 20


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_call_that_ends_without_its_message_is_refused(bench: Bench, method: str) -> None:
    error = await without_message(bench, method, KEY, half_close=True)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bench.requests("408") == 0


async def test_connections_beyond_the_limit_are_closed_and_those_that_are_there_go_on() -> None:
    async with running_bench(grpc_limits=GrpcLimits(connections=3, handshake_s=LONG_S)) as bench:
        assert (await bench.stub.Generate(PROMPT, metadata=KEY, timeout=60)).text == "a b c"
        kept = [await connect(bench) for _ in range(2)]
        for _ in range(3):
            assert await ended(await connect(bench))
        assert (await bench.stub.Generate(PROMPT, metadata=KEY, timeout=60)).text == "a b c"
        for _, writer in kept:
            writer.close()


async def test_connection_that_does_not_become_one_of_http2_is_closed() -> None:
    async with running_bench(grpc_limits=GrpcLimits(handshake_s=0.2)) as bench:
        assert await ended(await connect(bench))


async def test_connection_without_calls_is_closed_and_made_anew_by_the_next_call() -> None:
    async with running_bench(grpc_limits=GrpcLimits(idle_s=0.2)) as bench:
        assert (await bench.stub.Generate(PROMPT, metadata=KEY, timeout=60)).text == "a b c"
        async with asyncio.timeout(60):
            while (state := bench.channel.get_state()) is grpc.ChannelConnectivity.READY:
                await bench.channel.wait_for_state_change(state)
        assert (await bench.stub.Generate(PROMPT, metadata=KEY, timeout=60)).text == "a b c"


async def test_clients_are_told_how_many_calls_a_connection_may_have() -> None:
    async with running_bench(grpc_limits=GrpcLimits(streams=7)) as bench:
        reader, writer = await connect(bench)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        size = int.from_bytes((await reader.readexactly(9))[:3], "big")
        settings = await reader.readexactly(size)
        assert (3).to_bytes(2, "big") + (7).to_bytes(4, "big") in [settings[at : at + 6] for at in range(0, size, 6)]
        writer.close()
