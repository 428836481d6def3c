"""A server that answers every completion with a script, for tests of clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

Write = Callable[[bytes], Awaitable[None]]
Script = Callable[[dict[str, object], Write], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(tokens: int) -> bytes:
    return f'data: {{"choices": [], "usage": {{"completion_tokens": {tokens}}}}}\n\n'.encode()


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[tuple[str, list[dict[str, object]]]]:
    """A server that reads one request per connection and answers it with `script`."""
    bodies: list[dict[str, object]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = msgspec.json.decode(await reader.readexactly(length))
        bodies.append(body)

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        await script(body, write)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", bodies
