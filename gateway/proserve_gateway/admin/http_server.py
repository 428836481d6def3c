"""uvicorn in a loop that also runs other servers: no signal handlers, an awaitable start, a drained stop, and limits.

uvicorn bounds neither the size of a request's head nor the time that it may take nor the number of connections.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proserve_gateway.background import Background
from proserve_gateway.http.listening import (
    BACKLOG,
    CLOSING_S,
    HEAD_BYTES,
    HEAD_S,
    KEEP_ALIVE_S,
    listen,
    possible_connections,
)
from proserve_gateway.http.waiting_connections import WaitingConnections

_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_HEAD_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _Protocol(HttpToolsProtocol):
    """Refuses a head that does not end."""

    waiting: "WaitingConnections[_Protocol]"
    """The server's; set in a subclass of each."""
    _head_open = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waiting.awaits_head(self)
        if len(self.connections) > possible_connections():
            self.waiting.longest().transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.busy(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_open:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(_HEAD_TOO_LARGE)
        elif self.waiting.is_idle(self):
            # Bytes that begin no request, such as empty lines.
            self.waiting.awaits_head(self)

    def on_message_begin(self) -> None:
        self._head_open = True
        self._head_bytes = 0
        self.waiting.awaits_head(self)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_open = False
        self.waiting.busy(self)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self.waiting.idle(self)

    def too_slow(self) -> None:
        """The head did not come in time."""
        self.waiting.busy(self)
        if self._head_open:
            self._refuse(_HEAD_TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, answer: bytes) -> None:
        """End the connection with this answer to what is no request yet."""
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to whoever runs the whole process."""
        yield


class HttpServer:
    """One ASGI application on one address."""

    def __init__(self, app: Callable[..., Any], *, host: str, port: int, background: Background) -> None:
        """Binds at once, port 0 picks a free one. Create it inside the loop.

        Raises:
            OSError: the address is in use or not ours.
        """
        self._background = background
        self._socket = listen(host, port)
        self.host: str = host
        self.port: int = self._socket.getsockname()[1]
        self._waiting: WaitingConnections[_Protocol] = WaitingConnections(asyncio.get_running_loop().time)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=type("_Protocol", (_Protocol,), {"waiting": self._waiting}),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here uses the client's address
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=None,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._serving = self._background.run("admin port", self._serve)
        await self._server.up.wait()
        self._sweeping = self._background.run("admin port's time-outs", self._sweep)
        self._serving.add_done_callback(lambda _: self._sweeping and self._sweeping.cancel())

    async def _serve(self) -> None:
        if self._server.up.is_set():
            # The one before has failed, and may or may not have closed its sockets.
            for before in self._server.servers:
                before.close()
            self._socket.close()
            self._socket = listen(self.host, self.port)
            self._server = _Server(self._server.config)
        await self._server.serve([self._socket])

    async def _sweep(self) -> None:
        """Cheaper than a timer for each request."""
        while True:
            await asyncio.sleep(1.0)
            for connection in self._waiting.late_heads(HEAD_S):
                connection.too_slow()

    def close(self) -> None:
        """Accept no more connections and requests; those under way go on."""
        self._server.should_exit = True

    async def drained(self, grace_s: float) -> bool:
        """After `close()`: wait for open requests, at most `grace_s`; False when some are left."""
        if self._serving is None:
            return True
        done, _ = await asyncio.wait({self._serving}, timeout=grace_s)
        return bool(done)

    async def wait_closed(self, grace_s: float) -> None:
        """After `close()`: wait for open requests, at most `grace_s`, then cut them."""
        if self._serving is None:
            self._socket.close()
            return
        if await self.drained(grace_s):
            if not self._serving.cancelled():
                self._serving.result()
            return
        state = self._server.server_state
        for server in self._server.servers:
            server.close()
        self._serving.cancel()
        for connection in list(state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.wait({self._serving, *state.tasks}, timeout=CLOSING_S)
        self._socket.close()
