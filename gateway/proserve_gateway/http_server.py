"""uvicorn in a loop that also runs other servers: no signal handlers, an awaitable start, a drained stop."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

KEEP_ALIVE_S = 75
"""Idle client connections; above what usual load balancers keep, so that they close first."""
BACKLOG = 2048
CLIENT_STALL_MS = 60_000
"""How long a client may take nothing of what was sent before the kernel cuts its connection."""
HEAD_BYTES = 65536
"""Of a request's line and headers; uvicorn with httptools collects them without a limit."""
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
CLOSING_S = 2.0
"""For requests that were cut to notice it."""


class _Protocol(HttpToolsProtocol):
    """Refuses a head that does not end."""

    _head_open = False
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_open:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.write(_HEAD_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._head_open = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_open = False
        super().on_headers_complete()


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

    def __init__(self, app: Callable[..., Any], *, host: str, port: int, stall_ms: int = CLIENT_STALL_MS) -> None:
        """Binds at once, port 0 picks a free one.

        Raises:
            OSError: the address is in use or not ours.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Accepted connections inherit it. uvicorn waits for a stalled client for ever, and ASGI cannot cut one.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
        self.host: str = host
        self.port: int = self._socket.getsockname()[1]
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_Protocol,
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

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({self._serving, up}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            up.cancel()
            await self._serving
            raise RuntimeError(f"the HTTP server on {self.host}:{self.port} ended while it started")

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
