"""A TCP proxy before a server, which can fall silent, or be gone, while the server itself goes on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class DeafProxy:
    """Made by `deaf_proxy`."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.port = 0
        self.silent = False
        """Connections stay, and nothing of what the server says gets through."""
        self.gone = False
        """New connections end at once; those that are there: `cut`."""
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """End all connections and take none, until `gone` is False."""
        self.gone = True
        for writer in self._writers:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        if self.gone:
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        both = {writer, server_writer}
        self._writers |= both
        directions = [
            asyncio.create_task(self._forward(reader, server_writer, from_server=False)),
            asyncio.create_task(self._forward(server_reader, writer, from_server=True)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.wait(directions)
            self._writers -= both
            for each in both:
                each.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if not (self.silent and from_server):
                    writer.write(data)


@contextlib.asynccontextmanager
async def deaf_proxy(server_port: int) -> AsyncIterator[DeafProxy]:
    """One that listens."""
    proxy = DeafProxy(server_port)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        proxy.cut()
        listening.close()
        await listening.wait_closed()
