"""The HTTP server of the data port: one listening socket, its connections, and the bounds that all of them share.

Late heads, late bodies and idle connections are found by one sweep over those that keep the server waiting: a timer for
each request would be a measurable share of its cost.
"""

import asyncio
import contextlib
import ssl
from email.utils import formatdate

from proserve_gateway.background import Background
from proserve_gateway.http.connection import HttpConnection
from proserve_gateway.http.listening import (
    BACKLOG,
    CLIENT_STALL_MS,
    CLOSING_S,
    HEAD_BYTES,
    HEAD_S,
    KEEP_ALIVE_S,
    listen,
    possible_connections,
)
from proserve_gateway.http.request import HttpHandler
from proserve_gateway.http.tls_listener import TlsListener
from proserve_gateway.http.waiting_connections import WaitingConnections

DISCARD_S = 60.0
"""For the rest of a body that was refused: who is cut while sending never sees why."""


class DataServer:
    """One handler on one address."""

    def __init__(
        self,
        handler: HttpHandler,
        *,
        host: str,
        port: int,
        background: Background,
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
        self._socket = listen(host, port, stall_ms=stall_ms)
        self.host: str = host
        self.port: int = self._socket.getsockname()[1]
        self.scheme = "http" if tls is None else "https"
        self.handler = handler
        self.loop = asyncio.get_running_loop()
        self.head_bytes = HEAD_BYTES
        self.discard_s = DISCARD_S
        self.date_line = b""
        self._background = background
        self._tls = tls
        self._head_s = head_s
        self._keep_alive_s = keep_alive_s
        self._most_connections = most_connections or possible_connections()
        self._listener: asyncio.Server | TlsListener | None = None
        self._connections: set[HttpConnection] = set()
        self.waiting: WaitingConnections[HttpConnection] = WaitingConnections(self.loop.time)
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Returns when connections are accepted."""
        if self._tls is None:
            self._listener = await self.loop.create_server(
                lambda: HttpConnection(self), sock=self._socket, backlog=BACKLOG
            )
        else:
            self._listener = TlsListener(self._socket, self._tls, lambda: HttpConnection(self), self._background)
        self._sweep()

    def close(self) -> None:
        """Accept no more connections and requests; those under way go on."""
        if self._listener is not None:
            self._listener.close()
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
        """There is a new connection, or one whose handshake is done."""
        self._connections.add(connection)
        self._all_gone.clear()
        self.waiting.awaits_head(connection)
        if len(self._connections) > self._most_connections:
            self.waiting.longest().abort()

    def lost(self, connection: HttpConnection) -> None:
        """The connection is gone."""
        self._connections.discard(connection)
        self.waiting.busy(connection)
        if not self._connections:
            self._all_gone.set()

    def _sweep(self) -> None:
        # Whatever goes wrong with one connection, the time-outs of the others go on.
        self._sweeper = self.loop.call_later(self._sweep_s, self._sweep)
        now_s = self.loop.time()
        self.date_line = b"date: %s\r\n" % formatdate(usegmt=True).encode()
        for connection in (*self.waiting.late_heads(self._head_s), *self.waiting.late_idle(self._keep_alive_s)):
            connection.too_slow()
        for connection in list(self._connections):
            if connection.active is not None and connection.active.body_until_s < now_s:
                connection.too_slow()
            connection.look_for_end()

    @property
    def _sweep_s(self) -> float:
        return min(1.0, self._head_s / 4, self._keep_alive_s / 4)
