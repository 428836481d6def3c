"""One TCP connection to an engine and the exchanges on it: HTTP/1.1 on httptools and asyncio.Protocol.

No HTTP client library keeps up with one gateway core: the same proxy costs 26-50 us per request on bare httptools and
200 us to 3 ms on aiohttp or httpx. What the data path needs is small: one request at a time, a streamed answer, and
certainty about how it ended. An answer is complete only when its framing says so (content length, last chunk); anything
else is an error, never a short success.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import cast

import httptools
import msgspec


class FailureKind(StrEnum):
    """How an exchange failed. Closed list, used as a metric label."""

    CONNECT = "connect"
    """No connection: refused, unreachable, TLS."""
    CONNECT_TIMEOUT = "connect_timeout"
    CLOSED = "closed"
    """The connection ended before a byte of the answer."""
    TRUNCATED = "truncated"
    """The connection ended inside the answer."""
    PROTOCOL = "protocol"
    """The answer is not HTTP/1.1 as we understand it, or beyond our limits."""
    HEAD_TIMEOUT = "head_timeout"
    """No headers in time."""
    IDLE_TIMEOUT = "idle_timeout"
    """Silence inside the body."""
    TOTAL_TIMEOUT = "total_timeout"
    """The request's time is up, at whatever engine."""
    LOST = "lost"
    """The engine misses its polls and is silent here too."""
    STALLED = "stalled"
    """Our reader took nothing for too long: the client is slow, not the engine."""
    STOPPED = "stopped"
    """This gateway gave the exchange up (shutdown)."""


class UpstreamError(Exception):
    """An exchange with an engine failed."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class UpstreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Time-outs and sizes of the upstream client."""

    connect_s: float = 5.0
    head_s: float = 600.0
    """To the end of the answer's headers. A reply that is not streamed only begins when generation is over."""
    idle_s: float = 300.0
    """Between two reads of a body. Generous: a low class may stay preempted while important requests run."""
    total_s: float = 3600.0
    """Of a request, from its arrival, over all engines."""
    lost_quiet_s: float = 5.0
    """Silence after which an exchange is given up when its engine misses its polls: an engine that is only too busy
    for polls still sends tokens."""
    stall_s: float = 60.0
    """How long our own reader may leave a full buffer untouched."""
    keep_alive_s: float = 4.0
    """Idle connections are dropped after this; below uvicorn's 5 s, so that the engine rarely closes first."""
    head_bytes: int = 65536
    buffer_bytes: int = 262144
    """Unread body at which reading from the engine pauses."""


class Exchange:
    """One request and its answer. `status` and `headers` are there once `head()` returned."""

    __slots__ = (
        "_buffered",
        "_chunks",
        "_connection",
        "_loop",
        "_silent_s",
        "_waiter",
        "complete",
        "end_s",
        "failure",
        "head_complete",
        "headers",
        "last_s",
        "paused",
        "received",
        "started_s",
        "status",
    )

    def __init__(
        self, connection: "Connection", loop: asyncio.AbstractEventLoop, *, end_s: float, silent_s: float
    ) -> None:
        """`silent_s`: see `UpstreamLimits.lost_quiet_s`."""
        self._silent_s = silent_s
        self._connection: Connection | None = connection
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case."""
        self.head_complete = False
        self.complete = False
        self.received = False
        self.paused = False
        self.failure: UpstreamError | None = None
        self.started_s = self.last_s = loop.time()
        self.end_s = end_s

    def header(self, name: bytes) -> bytes | None:
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def head(self) -> None:
        """Wait for the answer's headers."""
        while not self.head_complete:
            if self.failure is not None:
                raise self.failure
            await self._wait()

    async def read(self) -> bytes:
        """All that has come since the last read, in one piece; b"" when the answer is complete.

        Raises:
            UpstreamError: the answer did not end as it should; everything that came before was returned first.
        """
        while True:
            if self._chunks:
                data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
                self._chunks.clear()
                self._buffered = 0
                if self.paused:
                    self._resume()
                return data
            if self.failure is not None:
                raise self.failure
            if self.complete:
                return b""
            await self._wait()

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            UpstreamError: as `read`, or the body is larger than `limit_bytes`.
        """
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read():
            size += len(piece)
            if size > limit_bytes:
                self.abort()
                raise UpstreamError(FailureKind.PROTOCOL, f"the engine's answer is larger than {limit_bytes} bytes")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def abort(self) -> None:
        """Give the answer up: closes the connection unless the answer is complete; the engine then aborts."""
        self.stop(FailureKind.STOPPED, "the gateway gave the exchange up")

    def give_up_if_silent(self) -> None:
        """The engine does not answer its polls: fail the exchange unless something came lately."""
        quiet_s = self._loop.time() - self.last_s
        if quiet_s >= self._silent_s and not self.paused:
            self.stop(FailureKind.LOST, f"the engine sent nothing for {quiet_s:.1f} s and does not answer polls")

    def stop(self, kind: FailureKind, message: str) -> None:
        """Fail the exchange from this side; nothing happens when it is over already."""
        connection = self._connection
        if connection is not None:
            self.fail(UpstreamError(kind, message))
            connection.discard()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _resume(self) -> None:
        self.paused = False
        self.last_s = self._loop.time()
        if self._connection is not None:
            self._connection.resume_reading()

    # What the connection reports.

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def add_body(self, data: bytes) -> int:
        """Bytes that wait for the reader now."""
        self._chunks.append(data)
        self._buffered += len(data)
        return self._buffered

    def finish(self) -> None:
        self.complete = True
        self._connection = None

    def fail(self, failure: UpstreamError) -> None:
        self.failure = failure
        self._connection = None
        self.wake()


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time. Belongs to an `UpstreamClient`, told by the two callbacks."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: UpstreamLimits,
        on_free: Callable[["Connection", Exchange], None],
        on_lost: Callable[["Connection", Exchange | None], None],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._on_free = on_free
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._head_bytes = 0
        """Received before the head was complete: bounds a single header that never ends."""
        self._header_bytes = 0
        """Headers and trailers parsed so far."""
        self._framed = False
        self._informational = False
        self._unusable = False
        self.idle_since_s = 0.0

    def start(self, request: bytes, total_s: float) -> Exchange:
        """Send a request on a connection that carries none."""
        if self._transport is None or self._exchange is not None:
            raise AssertionError("a connection carries one exchange at a time")
        self._head_bytes = self._header_bytes = 0
        self._framed = False
        exchange = self._exchange = Exchange(
            self, self._loop, end_s=self._loop.time() + total_s, silent_s=self._limits.lost_quiet_s
        )
        self._transport.write(request)
        return exchange

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._unusable and not self._transport.is_closing()

    def discard(self) -> None:
        """Close at once, whatever is under way."""
        self._unusable = True
        exchange, self._exchange = self._exchange, None
        if self._transport is not None:
            self._transport.abort()
        if exchange is not None:
            self._on_lost(self, exchange)

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            # Nobody asked: whatever this is, it must not become the answer of the next request.
            self.discard()
            return
        exchange.received = True
        exchange.last_s = self._loop.time()
        if not exchange.head_complete:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(FailureKind.PROTOCOL, "the engine switched protocols")
            return
        except httptools.HttpParserError as error:
            self._fail(FailureKind.PROTOCOL, f"the engine's answer is not valid HTTP: {error}")
            return
        if self._header_bytes > self._limits.head_bytes or (
            not exchange.head_complete and self._head_bytes > self._limits.head_bytes
        ):
            exchange.head_complete = False
            self._fail(FailureKind.PROTOCOL, f"the engine's headers are larger than {self._limits.head_bytes} bytes")
            return
        if exchange.complete:
            self._exchange = None
            self.idle_since_s = exchange.last_s
            self._on_free(self, exchange)
        exchange.wake()

    def eof_received(self) -> bool | None:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._unusable = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            if exchange.head_complete and not self._framed and exc is None:
                # HTTP/1.0 style: the end of the connection is the end of the body.
                exchange.finish()
                exchange.wake()
            elif not exchange.received:
                exchange.fail(UpstreamError(FailureKind.CLOSED, _ended("before it answered", exc)))
            else:
                exchange.fail(UpstreamError(FailureKind.TRUNCATED, _ended("inside its answer", exc)))
        self._on_lost(self, exchange)

    # httptools callbacks

    def on_message_begin(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.complete:
            self._unusable = True

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self._exchange
        self._header_bytes += len(name) + len(value) + 4
        if exchange is None or exchange.head_complete:
            return
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._informational = True
            self._framed = False
            exchange.headers.clear()
            return
        exchange.status = status
        exchange.head_complete = True

    def on_body(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None or exchange.complete:
            return
        if exchange.add_body(data) > self._limits.buffer_bytes and not exchange.paused and self._transport is not None:
            exchange.paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if self._informational:
            self._informational = False
            return
        if exchange is None or exchange.complete:
            return
        if not self._parser.should_keep_alive():
            self._unusable = True
        if exchange.paused:
            # The next exchange on this connection starts with reading on.
            exchange.paused = False
            self.resume_reading()
        exchange.finish()

    def _fail(self, kind: FailureKind, message: str) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.fail(UpstreamError(kind, message))
        self.discard()


def _ended(where: str, exc: Exception | None) -> str:
    how = "closed the connection" if exc is None else f"broke the connection ({exc})"
    return f"the engine {how} {where}"
