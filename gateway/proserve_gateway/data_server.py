"""The HTTP server of the data port: one listening socket, its connections, and the bounds that all of them share.

Late heads, late bodies and idle connections are found by one sweep over those that keep the server waiting: a timer for
each request would be a measurable share of its cost.
"""

import asyncio
import contextlib
import resource
import socket
import ssl
from email.utils import formatdate

from proserve_gateway.http_connection import HttpConnection
from proserve_gateway.http_request import HttpHandler

KEEP_ALIVE_S = 75.0
"""Idle client connections; above what usual load balancers keep, so that they close first."""
BACKLOG = 2048
CLIENT_STALL_MS = 60_000
"""How long a client may take nothing of what was sent before the kernel cuts its connection."""
HEAD_BYTES = 65536
"""Of a request's line and headers."""
HEAD_S = 30.0
"""For a request's line and headers, from the connection or their first byte on."""
HANDSHAKE_S = 5.0
"""Of TLS. Short, since a connection counts as one, and can make room for others, only after it."""
DISCARD_S = 60.0
"""For the rest of a body that was refused: who is cut while sending never sees why."""
MOST_CONNECTIONS = 16_384
"""Open at a time, if the system lets the process have two descriptors for each."""
_SPARE_DESCRIPTORS = 200
CLOSING_S = 2.0
"""For requests that were cut to notice it."""


class DataServer:
    """One handler on one address."""

    def __init__(
        self,
        handler: HttpHandler,
        *,
        host: str,
        port: int,
        stall_ms: int = CLIENT_STALL_MS,
        head_s: float = HEAD_S,
        keep_alive_s: float = KEEP_ALIVE_S,
        most_connections: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Binds at once, port 0 picks a free one. Create it inside the loop. `most_connections`: by default what the
        limit on descriptors allows.

        Raises:
            OSError: the address is in use or not ours.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Accepted connections inherit it.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
        self.host: str = host
        self.port: int = self._socket.getsockname()[1]
        self.scheme = "http" if tls is None else "https"
        self.handler = handler
        self.loop = asyncio.get_running_loop()
        self.head_bytes = HEAD_BYTES
        self.discard_s = DISCARD_S
        self.date_line = b""
        self._tls = tls
        self._head_s = head_s
        self._keep_alive_s = keep_alive_s
        self._most_connections = most_connections or _most_connections()
        self._server: asyncio.Server | None = None
        self._connections: set[HttpConnection] = set()
        self._heads_s: dict[HttpConnection, float] = {}
        """A head is awaited, since the connection or the head began; longest first."""
        self._idle_s: dict[HttpConnection, float] = {}
        """Kept alive, since the last answer ended; longest first."""
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Returns when connections are accepted."""
        handshake_s = None if self._tls is None else HANDSHAKE_S
        self._server = await self.loop.create_server(
            lambda: HttpConnection(self),
            sock=self._socket,
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=handshake_s,
        )
        self._sweep()

    def close(self) -> None:
        """Accept no more connections and requests; those under way go on."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.last_one()

    async def drained(self, grace_s: float) -> bool:
        """After `close()`: wait for open requests, at most `grace_s`; False when some are left."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_gone.wait(), grace_s)
        return self._all_gone.is_set()

    async def wait_closed(self, grace_s: float) -> None:
        """After `close()`: wait for open requests, at most `grace_s`, then cut them."""
        if not await self.drained(grace_s):
            for connection in list(self._connections):
                connection.abort()
            await self.drained(CLOSING_S)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._socket.close()

    # What connections tell

    def opened(self, connection: HttpConnection) -> None:
        """There is a new connection."""
        self._connections.add(connection)
        self._all_gone.clear()
        self._heads_s[connection] = self.loop.time()
        if len(self._connections) > self._most_connections:
            self._make_room()

    def lost(self, connection: HttpConnection) -> None:
        """The connection is gone."""
        self._connections.discard(connection)
        self.busy(connection)
        if not self._connections:
            self._all_gone.set()

    def awaits_head(self, connection: HttpConnection) -> None:
        """A head has begun, or something that is not even one."""
        self._idle_s.pop(connection, None)
        if connection not in self._heads_s:
            self._heads_s[connection] = self.loop.time()

    def busy(self, connection: HttpConnection) -> None:
        """A request is being answered."""
        self._heads_s.pop(connection, None)
        self._idle_s.pop(connection, None)

    def idle(self, connection: HttpConnection) -> None:
        """The answer is complete and the connection is kept."""
        self._idle_s[connection] = self.loop.time()

    def _make_room(self) -> None:
        """End the one that has kept us waiting longest: under attack an attacker's, and never a request under way."""
        # Idle ones first: with a clock of milliseconds the one just opened may be as old as the oldest of them.
        oldest = [next(iter(kind.items())) for kind in (self._idle_s, self._heads_s) if kind]
        connection, _ = min(oldest, key=lambda item: item[1])
        connection.abort()

    def _sweep(self) -> None:
        now_s = self.loop.time()
        self.date_line = b"date: %s\r\n" % formatdate(usegmt=True).encode()
        for waiting, most_s in ((self._heads_s, self._head_s), (self._idle_s, self._keep_alive_s)):
            for connection, since_s in list(waiting.items()):
                if since_s + most_s > now_s:
                    break
                connection.too_slow()
        for connection in list(self._connections):
            if connection.active is not None and connection.active.body_until_s < now_s:
                connection.too_slow()
        self._sweeper = self.loop.call_later(self._sweep_s, self._sweep)

    @property
    def _sweep_s(self) -> float:
        return min(1.0, self._head_s / 4, self._keep_alive_s / 4)


def _most_connections() -> int:
    """Each may need a second descriptor, for its engine."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MOST_CONNECTIONS, (soft - _SPARE_DESCRIPTORS) // 2))
