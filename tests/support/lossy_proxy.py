"""A TCP proxy before a Valkey or Redis server that loses what it is told to: a call, or the answer to one that has
arrived."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import Enum

from quota_server import QuotaServer


class Loss(Enum):
    """What happens to a call."""

    CALL = "it never arrives"
    ANSWER = "it arrives, its answer does not"


class LossyProxy:
    """A connection that has lost something ends."""

    def __init__(self, server: QuotaServer) -> None:
        self._server = server
        self.url = ""
        self.losses: list[Loss] = []
        """Of the next calls that hold `about`, in turn."""
        self.about = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection."""
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        answers = asyncio.create_task(_forward(server_reader, writer))
        with contextlib.suppress(ConnectionError):
            while call := await reader.read(65536):
                # Counters are changed by a script; all else sets the connection up.
                changes = b"EVAL" in call and self.about in call
                loss = self.losses.pop(0) if self.losses and changes else None
                if loss is not None:
                    answers.cancel()
                    await asyncio.wait({answers})
                if loss is not Loss.CALL:
                    server_writer.write(call)
                if loss is not None:
                    if loss is Loss.ANSWER:
                        await server_reader.read(65536)
                    break
        answers.cancel()
        for each in (writer, server_writer):
            each.close()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)


@contextlib.asynccontextmanager
async def lossy_proxy(server: QuotaServer) -> AsyncIterator[LossyProxy]:
    """One that listens."""
    proxy = LossyProxy(server)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        proxy.url = server.url.replace(f":{server.port}/", f":{port}/")
        yield proxy
