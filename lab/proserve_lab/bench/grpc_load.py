"""A bare grpc.aio echo server, and load for it and for the gateway: the floor of what gRPC costs in Python.

`python -m proserve_lab.bench.grpc_load echo PORT` serves; `... load PORT KIND SECONDS` prints what it did as JSON.
Messages are bytes to both: the gateway's protobuf is written by hand, so that nothing generated is needed here.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import msgspec

from proserve_lab.bench.proxies import API_KEY, MODEL

SERVICE = "proserve.v1.Inference"
UNARY, STREAM = "Generate", "GenerateStream"
MESSAGES = 20
"""Of a stream."""
INTERVAL_S = 0.002
"""Between the messages of a stream; the benchmark's upstream sends chunks like this."""
CALLS = 16
"""At a time."""


class GrpcCounts(msgspec.Struct, frozen=True):
    """What a load did."""

    calls: int
    messages: int
    seconds: float


def generate_request(prompt_bytes: int = 400) -> bytes:
    """`GenerateRequest`: model, prompt, and as many tokens as a stream has messages."""
    sampling = bytes([0x08, MESSAGES])
    prompt = b"x" * prompt_bytes
    size = bytes([prompt_bytes & 0x7F | 0x80, prompt_bytes >> 7])
    return b"\x0a" + bytes([len(MODEL)]) + MODEL.encode() + b"\x12" + size + prompt + b"\x2a" + bytes([2]) + sampling


async def load(port: int, kind: str, seconds: float) -> GrpcCounts:
    """Call for `seconds`."""
    request = generate_request()
    metadata = (("authorization", f"Bearer {API_KEY}"),)
    end_s = time.monotonic() + seconds
    began_s = time.monotonic()
    calls = messages = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        unary: Any = channel.unary_unary(f"/{SERVICE}/{UNARY}")
        stream: Any = channel.unary_stream(f"/{SERVICE}/{STREAM}")

        async def work() -> None:
            nonlocal calls, messages
            while time.monotonic() < end_s:
                if kind == UNARY:
                    await unary(request, metadata=metadata)
                    messages += 1
                else:
                    async for _ in stream(request, metadata=metadata):
                        messages += 1
                calls += 1

        await asyncio.gather(*(work() for _ in range(CALLS)))
    return GrpcCounts(calls=calls, messages=messages, seconds=time.monotonic() - began_s)


async def echo(port: int) -> None:
    """Serve until the process is ended."""

    async def unary(request: bytes, _: Any) -> bytes:
        return request

    async def stream(request: bytes, _: Any) -> AsyncIterator[bytes]:
        for _number in range(MESSAGES):
            yield request[:80]
            await asyncio.sleep(INTERVAL_S)

    server = grpc.aio.server()
    handlers: dict[str, Any] = {
        UNARY: grpc.unary_unary_rpc_method_handler(unary),
        STREAM: grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def _main(arguments: list[str]) -> None:
    import uvloop

    if arguments[0] == "echo":
        uvloop.run(echo(int(arguments[1])))
    else:
        counts = uvloop.run(load(int(arguments[1]), arguments[2], float(arguments[3])))
        sys.stdout.write(msgspec.json.encode(counts).decode() + "\n")


if __name__ == "__main__":
    _main(sys.argv[1:])
