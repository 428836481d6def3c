"""An upstream client and a loopback server that behaves as scripted: breaks off, stalls, answers nonsense."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from proserve_gateway.fleet.target import Endpoint
from proserve_gateway.upstream.client import UpstreamClient, request_head
from proserve_gateway.upstream.exchange import Exchange, UpstreamLimits

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedServer:
    """Accepts connections and runs one handler on each."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.connections = 0
        self.ended: list[asyncio.Event] = []
        self.port = 0

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ended = asyncio.Event()
        self.ended.append(ended)
        try:
            await self._handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            ended.set()


@asynccontextmanager
async def serving(
    handler: Handler, limits: UpstreamLimits | None = None
) -> AsyncIterator[tuple["Engine", ScriptedServer]]:
    scripted = ScriptedServer(handler)
    server = await asyncio.start_server(scripted.on_connection, "127.0.0.1", 0)
    scripted.port = server.sockets[0].getsockname()[1]
    client = UpstreamClient(limits)
    try:
        yield Engine(client, scripted.port), scripted
    finally:
        client.close()
        server.close()


class Engine:
    """Shorthand for requests to the scripted server."""

    def __init__(self, client: UpstreamClient, port: int) -> None:
        self.client = client
        self.endpoint = Endpoint(
            name="engine", host="127.0.0.1", port=port, base_path="", tls=False, api_key="s3cret", has_capacity=True
        )

    async def ask(self, body: bytes = b"{}") -> Exchange:
        head = request_head(self.endpoint, "POST", "/v1/completions")
        return await self.client.request(self.endpoint, head, lambda: body)

    async def ask_all(self) -> bytes:
        return await (await self.ask()).read_all(100)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


def answering(*answers: bytes) -> Handler:
    """A server that gives each request on a connection the next answer, then closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()

    return handler


def sized(body: bytes, status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n%s" % (status, len(body), extra, body)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
