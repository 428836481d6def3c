"""One TCP connection to an engine and the exchanges on it: HTTP/1.1 on httptools and asyncio.Protocol.

No HTTP client library keeps up with one gateway core: the same proxy costs 26-50 us per request on bare httptools and
200 us to 3 ms on aiohttp or httpx. What the data path needs is small: one request at a time, a streamed answer, and
certainty about how it ended.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from proserve_gateway.upstream.exchange import Exchange, FailureKind, UpstreamError, UpstreamLimits


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
