"""The upstream client: keep-alive connections per engine, requests that start on them, one sweeper for all time-outs.

Time-outs are checked by a sweep over the open exchanges instead of a timer per request: they are long and need no
precision, and arming and cancelling timers is a measurable share of a request's cost.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache

from proserve_gateway.fleet.target import Endpoint, TlsPeer
from proserve_gateway.security.tls import EngineTls, TlsError
from proserve_gateway.upstream.connection import Connection
from proserve_gateway.upstream.exchange import Exchange, FailureKind, UpstreamError, UpstreamLimits

_Key = tuple[str, int, bool, TlsPeer | None]


class UpstreamClient:
    """Talks to engines. One per event loop; create it inside the loop, `close()` it there."""

    def __init__(self, limits: UpstreamLimits | None = None, tls: EngineTls | None = None) -> None:
        self._limits = limits or UpstreamLimits()
        self._tls = tls or EngineTls()
        self._loop = asyncio.get_running_loop()
        self._idle: dict[_Key, list[Connection]] = {}
        self._keys: dict[Connection, _Key] = {}
        self._active: set[Exchange] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        shortest_s = min(self._limits.head_s, self._limits.idle_s, self._limits.total_s, self._limits.stall_s)
        self._sweep_s = min(1.0, max(0.01, min(shortest_s, self._limits.keep_alive_s) / 4))

    async def request(
        self,
        endpoint: Endpoint,
        head: bytes,
        body: Callable[[], bytes] = bytes,
        *,
        age_s: float = 0.0,
        on_start: Callable[[Exchange], None] | None = None,
    ) -> Exchange:
        """Send `head` (see `request_head`) and what `body` makes; returns when the headers of the answer are there.

        The body is made when it is sent, and again if it is sent again: nobody keeps it while the engine computes.
        `age_s` is what has passed of the request's total time; `on_start` is told each exchange that begins.

        A kept-alive connection may be closed by the engine at any moment; when one ends before the first byte of the
        answer the request is sent again, once, on a new connection. Cancelling the caller aborts the exchange.

        Raises:
            UpstreamError: no answer; nothing of it was delivered.
        """
        connection = self._take_idle(endpoint)
        total_s = self._limits.total_s - age_s
        if connection is not None:
            try:
                return await self._exchange(connection, head, body, total_s, on_start)
            except UpstreamError as error:
                if error.kind is not FailureKind.CLOSED:
                    raise
        return await self._exchange(await self._connect(endpoint), head, body, total_s, on_start)

    @property
    def total_s(self) -> float:
        """Most that a request may take, over all exchanges."""
        return self._limits.total_s

    @property
    def open_exchanges(self) -> int:
        return len(self._active)

    @property
    def connections(self) -> int:
        """Open connections, idle ones included."""
        return len(self._keys)

    def stop_exchanges(self) -> None:
        """Fail what is under way, as a part of this gateway's shutdown."""
        for exchange in list(self._active):
            exchange.stop(FailureKind.STOPPED, "the gateway is shutting down")

    def close(self) -> None:
        """Abort everything."""
        for connection in list(self._keys):
            connection.discard()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def _exchange(
        self,
        connection: Connection,
        head: bytes,
        body: Callable[[], bytes],
        total_s: float,
        on_start: Callable[[Exchange], None] | None,
    ) -> Exchange:
        try:
            exchange = connection.start(_message(head, body()), total_s)
        except BaseException:
            connection.discard()
            raise
        self._active.add(exchange)
        if on_start is not None:
            on_start(exchange)
        self._arm()
        try:
            await exchange.head()
        except asyncio.CancelledError:
            exchange.abort()
            raise
        return exchange

    def _take_idle(self, endpoint: Endpoint) -> Connection | None:
        idle = self._idle.get(_key(endpoint))
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, endpoint: Endpoint) -> Connection:
        loop, peer = self._loop, endpoint.peer
        try:
            tls = self._tls.context(None if peer is None else peer.authority) if endpoint.tls else None
            async with asyncio.timeout(self._limits.connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop=loop, limits=self._limits, on_free=self._free, on_lost=self._lost),
                    endpoint.host,
                    endpoint.port,
                    ssl=tls,
                    server_hostname=peer.server_name if tls and peer else None,
                )
        except TimeoutError as error:
            message = f"no connection to {endpoint.host}:{endpoint.port} within {self._limits.connect_s:g} s"
            raise UpstreamError(FailureKind.CONNECT_TIMEOUT, message) from error
        except (OSError, TlsError) as error:
            message = f"no connection to {endpoint.host}:{endpoint.port}: {error}"
            raise UpstreamError(FailureKind.CONNECT, message) from error
        self._keys[connection] = _key(endpoint)
        return connection

    def _free(self, connection: Connection, exchange: Exchange) -> None:
        self._active.discard(exchange)
        key = self._keys.get(connection)
        if key is None or not connection.usable:
            connection.discard()
            return
        self._idle.setdefault(key, []).append(connection)

    def _lost(self, connection: Connection, exchange: Exchange | None) -> None:
        if exchange is not None:
            self._active.discard(exchange)
        key = self._keys.pop(connection, None)
        if key is not None and connection in (idle := self._idle.get(key, [])):
            idle.remove(connection)

    def _arm(self) -> None:
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._sweep_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        limits, now_s = self._limits, self._loop.time()
        for exchange in list(self._active):
            quiet_s = now_s - exchange.last_s
            if exchange.paused:
                if quiet_s > limits.stall_s:
                    exchange.stop(FailureKind.STALLED, f"the client took nothing for {limits.stall_s:g} s")
            elif not exchange.head_complete:
                if now_s - exchange.started_s > limits.head_s:
                    exchange.stop(FailureKind.HEAD_TIMEOUT, f"the engine did not answer within {limits.head_s:g} s")
            elif quiet_s > limits.idle_s:
                exchange.stop(FailureKind.IDLE_TIMEOUT, f"the engine sent nothing for {limits.idle_s:g} s")
            if now_s > exchange.end_s:
                exchange.stop(FailureKind.TOTAL_TIMEOUT, f"the request took longer than {limits.total_s:g} s")
        for idle in self._idle.values():
            for connection in [one for one in idle if now_s - one.idle_since_s > limits.keep_alive_s]:
                idle.remove(connection)
                connection.discard()
        if self._active or any(self._idle.values()):
            self._arm()


def _message(head: bytes, body: bytes) -> bytes:
    return b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body)


def _key(endpoint: Endpoint) -> _Key:
    """Whose connections are as good as each other's."""
    return endpoint.host, endpoint.port, endpoint.tls, endpoint.peer


@lru_cache(maxsize=1024)
def request_head(endpoint: Endpoint, method: str, path: str) -> bytes:
    """Request line and the headers that are the same for every request of a route, without the empty line.

    Nothing of the client's headers gets here: an engine hears only what the gateway says.
    """
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [
        f"{method} {endpoint.base_path}{path} HTTP/1.1",
        f"host: {host}:{endpoint.port}",
        "user-agent: proserve-gateway",
        "accept: application/json, text/event-stream",
        "content-type: application/json",
    ]
    if endpoint.api_key is not None:
        lines.append(f"authorization: Bearer {endpoint.api_key}")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
