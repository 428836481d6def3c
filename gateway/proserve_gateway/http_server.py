"""uvicorn in a loop that also runs other servers: no signal handlers, an awaitable start, a drained stop, and limits.

uvicorn bounds neither the size of a request's head nor the time that it may take nor the number of connections.
"""

import asyncio
import contextlib
import resource
import socket
import ssl
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
HEAD_S = 30.0
"""For a request's line and headers, from the connection or their first byte on."""
MOST_CONNECTIONS = 16_384
"""Open at a time, if the system lets the process have two descriptors for each."""
_SPARE_DESCRIPTORS = 200
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_HEAD_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
CLOSING_S = 2.0
"""For requests that were cut to notice it."""


class _Waiting:
    """Connections of one server that have no request in progress, longest first."""

    def __init__(self, most_connections: int) -> None:
        self.most_connections = most_connections
        self.heads_s: dict[_Protocol, float] = {}
        """A head is awaited, since the connection or the head began."""
        self.idle_s: dict[_Protocol, float] = {}
        """Kept alive, since the last answer ended."""

    def end_late(self, latest_s: float) -> None:
        """End those that began before `latest_s`."""
        for connection, since_s in list(self.heads_s.items()):
            if since_s > latest_s:
                return
            connection.too_slow()

    def make_room(self) -> None:
        """End the one that has kept us waiting longest: under attack an attacker's, and never a request in progress."""
        oldest = [next(iter(kind.items())) for kind in (self.heads_s, self.idle_s) if kind]
        connection, _ = min(oldest, key=lambda item: item[1])
        connection.transport.abort()

    def forget(self, connection: "_Protocol") -> None:
        """It has a request in progress, or is gone."""
        self.heads_s.pop(connection, None)
        self.idle_s.pop(connection, None)


class _Protocol(HttpToolsProtocol):
    """Refuses a head that does not end."""

    waiting: _Waiting
    """The server's; set in a subclass of each."""
    _head_open = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.waiting.most_connections:
            self.waiting.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_open:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(_HEAD_TOO_LARGE)
        elif self in self.waiting.idle_s:
            # Bytes that begin no request, such as empty lines.
            self._wait()

    def on_message_begin(self) -> None:
        self._head_open = True
        self._head_bytes = 0
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_open = False
        self.waiting.forget(self)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self.waiting.idle_s[self] = self.loop.time()

    def too_slow(self) -> None:
        """The head did not come in time."""
        self.waiting.forget(self)
        if self._head_open:
            self._refuse(_HEAD_TOO_SLOW)
        else:
            self.transport.close()

    def _wait(self) -> None:
        self.waiting.idle_s.pop(self, None)
        self.waiting.heads_s.setdefault(self, self.loop.time())

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

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        host: str,
        port: int,
        stall_ms: int = CLIENT_STALL_MS,
        head_s: float = HEAD_S,
        most_connections: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Binds at once, port 0 picks a free one. `most_connections`: what the limit on descriptors allows.

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
        self.scheme = "http" if tls is None else "https"
        self._head_s = head_s
        self._waiting = _Waiting(most_connections or _most_connections())
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
                ssl_context_factory=None if tls is None else lambda _config, _default: tls,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({self._serving, up}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            up.cancel()
            await self._serving
            raise RuntimeError(f"the HTTP server on {self.host}:{self.port} ended while it started")
        self._sweeping = asyncio.create_task(self._sweep())
        self._serving.add_done_callback(lambda _: self._sweeping and self._sweeping.cancel())

    async def _sweep(self) -> None:
        """Cheaper than a timer for each request."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(1.0, self._head_s / 4))
            self._waiting.end_late(clock() - self._head_s)

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


def _most_connections() -> int:
    """Each may need a second descriptor, for its engine."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MOST_CONNECTIONS, (soft - _SPARE_DESCRIPTORS) // 2))
