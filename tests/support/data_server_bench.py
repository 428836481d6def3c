"""The data port's HTTP server with a handler that echoes, and raw connections to it."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator

from proserve_gateway.background import Background
from proserve_gateway.errors import ApiError
from proserve_gateway.http.data_server import DataServer
from proserve_gateway.http.request import BodyTooLargeError, BodyTooSlowError, HttpRequest
from proserve_gateway.metrics import GatewayMetrics

POST = b"POST /echo HTTP/1.1\r\nhost: here\r\n"
LARGE = bytes(16_000_000)


class Echo:
    """Answers with what it was asked; `/stream` in pieces, `/begun` with a first piece before `gate` opens, `/early`
    before the body is here, `/large` with more than sockets hold, `/fault` not at all."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun = asyncio.Event()
        """A request is here."""
        self.refusals: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def __call__(self, request: HttpRequest) -> None:
        self.asked.append(request.path)
        self.begun.set()
        if request.path == "/early":
            request.reply(401, [], b"who are you?")
            return
        if request.path == "/large":
            request.reply(200, [], LARGE)
            return
        if request.path == "/fault":
            raise RuntimeError("a fault")
        try:
            body = await request.body(most_bytes=100_000, most_s=0.1)
            if request.path == "/begun":
                request.start(200, [], b"data: 1\n\n")
            await self.gate.wait()
        except BodyTooLargeError:
            request.reply(413, [], b"")
        except BodyTooSlowError:
            request.keep_alive = False
            request.reply(408, [], b"")
        except ApiError as error:
            request.reply(error.status, [], error.body())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        else:
            if request.path == "/stream":
                request.start(200, [(b"x-kind", b"stream")], b"begin ")
                request.write(body)
                request.end(b" end")
            elif request.path == "/begun":
                request.end(b"data: 2\n\n")
            else:
                request.reply(200, [(b"x-path", request.path.encode())], body)

    def refused(self, error: ApiError) -> None:
        self.refusals.append(error.status)


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 60)
        status = int(head.split(b" ", 2)[1])
        found = re.search(rb"content-length: (\d+)", head)
        if found is not None:
            return status, await asyncio.wait_for(self.reader.readexactly(int(found[1])), 60)
        assert b"transfer-encoding: chunked" in head
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return status, body

    async def rest(self) -> bytes:
        """All until the server closes."""
        return await asyncio.wait_for(self.reader.read(), 60)


class Bench:
    def __init__(self, server: DataServer, handler: Echo) -> None:
        self.server, self.handler = server, handler
        self.clients: list[Client] = []

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.server.port))
        self.clients.append(client)
        return client


@contextlib.asynccontextmanager
async def serving(
    *,
    head_s: float = 30.0,
    keep_alive_s: float = 75.0,
    most_connections: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Bench]:
    handler = Echo()
    server = DataServer(
        handler,
        host="127.0.0.1",
        port=0,
        background=Background(GatewayMetrics()),
        head_s=head_s,
        keep_alive_s=keep_alive_s,
        most_connections=most_connections,
        tls=tls,
    )
    await server.start()
    bench = Bench(server, handler)
    try:
        yield bench
    finally:
        for client in bench.clients:
            client.writer.close()
        server.close()
        await server.wait_closed(0.0)


def sized(body: bytes, head: bytes = POST) -> bytes:
    return head + b"content-length: %d\r\n\r\n%s" % (len(body), body)
