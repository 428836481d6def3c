"""One HTTP request and its answer, as the data path sees it; `connection` brings and takes the bytes.

The seam between server and application: `HttpHandler` is called with an `HttpRequest` when the headers are here. It may
answer at once, or ask for the `body` first, and then answers in one piece (`reply`) or as a stream (`start`, `write`,
`end`). When the client leaves, `left` is set and the handler's task is cancelled.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from proserve_gateway.errors import ApiError

if TYPE_CHECKING:
    from proserve_gateway.http.connection import HttpConnection

Headers = Sequence[tuple[bytes, bytes]]

EARLY_BODY_BYTES = 65536
"""Of a body that nobody asked for: whose request it is must be known before more memory is spent on it."""
MOST_FRAMING_BYTES = 65536
"""Of chunk sizes, their extensions and trailers, beside what chunks of a byte or more need."""
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_COMMENT = b":\n\n"
"""Of server-sent events."""


class BodyTooLargeError(Exception):
    """The body is larger than allowed; what is left of it is thrown away."""


class BodyTooSlowError(Exception):
    """The body did not arrive in time."""


class HttpHandler(Protocol):
    """The application behind a server."""

    async def __call__(self, request: "HttpRequest") -> None:
        """Answer the request. Whatever this raises is a fault of the handler: logged, and the connection is cut."""

    def refused(self, error: ApiError) -> None:
        """The server itself refused what was no proper request."""


class HttpRequest:
    """A request whose headers are here."""

    __slots__ = (
        "_asked", "_connection", "_failure", "_most_bytes", "_old", "_pieces", "_size", "_waiter", "answered",
        "body_until_s", "complete", "ended", "headers", "keep_alive", "left", "method", "path", "received_bytes",
    )  # fmt: skip

    def __init__(
        self,
        connection: "HttpConnection",
        *,
        method: bytes,
        path: str,
        headers: dict[bytes, bytes],
        keep_alive: bool,
        old: bool = False,
    ) -> None:
        self._connection = connection
        self._old = old
        """HTTP/1.0: no chunks, and a kept connection is told."""
        self._pieces: list[bytes] = []
        self._size = 0
        self._most_bytes = EARLY_BODY_BYTES
        self._asked = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.method = method
        self.path = path
        """Decoded, without the query."""
        self.headers = headers
        """Names in lower case; of a repeated one the last."""
        self.keep_alive = keep_alive
        self.complete = False
        """The whole body is here."""
        self.left = False
        """The client is gone: there is nobody to answer."""
        self.answered = False
        """The answer has begun."""
        self.ended = False
        """The answer is complete."""
        self.received_bytes = 0
        """After the headers, chunk sizes and trailers included."""
        self.body_until_s = float("inf")
        """When what is missing of the body is late."""

    # What comes

    @property
    def announced_bytes(self) -> int | None:
        """How long the body will be; None where it comes in chunks."""
        return None if b"transfer-encoding" in self.headers else int(self.headers.get(b"content-length", b"0"))

    async def body(self, *, most_bytes: int, most_s: float) -> bytes:
        """The whole body.

        Raises:
            BodyTooLargeError, BodyTooSlowError: see there.
            ApiError: it is not valid HTTP.
        """
        if not self.complete or self._size > most_bytes:
            await self._wait_for_body(most_bytes, most_s)
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _wait_for_body(self, most_bytes: int, most_s: float) -> None:
        connection = self._connection
        announced = self.headers.get(b"content-length", b"0")
        self._asked, self._most_bytes = True, most_bytes
        if max(int(announced), self._size) > most_bytes:
            raise BodyTooLargeError
        if self.headers.get(b"expect", b"").lower() == b"100-continue" and not self._size:
            connection.send(_CONTINUE)
        self.body_until_s = connection.time() + most_s
        connection.awaits_body()
        while not self.complete:
            if self._failure is not None:
                raise self._failure
            self._waiter = connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self.body_until_s = float("inf")
        connection.has_body()

    def add_body(self, data: bytes) -> None:
        """A piece of the body has come."""
        self._size += len(data)
        if self.answered or self._failure is not None:
            return
        if self._size > self._most_bytes:
            if self._asked:
                self._pieces.clear()
                self.fail(BodyTooLargeError())
                return
            self._connection.pause_reading()
        self._pieces.append(data)

    @property
    def is_bloated(self) -> bool:
        """Much more than the body has come: chunk extensions and trailers, which nobody needs."""
        return self.received_bytes > MOST_FRAMING_BYTES + 8 * self._size

    def completed(self) -> None:
        """The whole body has come."""
        self.complete = True
        self._wake()

    def fail(self, failure: Exception) -> None:
        """The body will not be complete; `body` raises `failure`."""
        self._failure = self._failure or failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What goes

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer."""
        head = self._head(status, headers, b"content-length: %d\r\n" % len(body))
        self._connection.send(head if self.method == b"HEAD" else head + body)
        self._end()

    def start(self, status: int, headers: Headers, data: bytes) -> None:
        """Begin an answer that streams; `data` is its first piece."""
        if self._old:
            self.keep_alive = False
        head = self._head(status, headers, b"" if self._old else b"transfer-encoding: chunked\r\n")
        self._connection.send(head + self._framed(data) if data else head)

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written."""
        await self._connection.drained()

    def write(self, data: bytes) -> bool:
        """The next piece of a stream, not empty. False: the client is slower than its answer, so await `drained`."""
        connection = self._connection
        connection.send(data if self._old else b"%x\r\n%s\r\n" % (len(data), data))
        return not connection.paused

    def probe(self) -> bool:
        """Write something that means nothing, to find out whether the client is there. False: it knows no such."""
        if self.answered:
            # What is not complete at once is a stream of events.
            self.write(_COMMENT)
            return True
        if not self._old:
            self._connection.send(_CONTINUE)
        return not self._old

    def end(self, data: bytes = b"") -> None:
        """The last piece of a stream."""
        if data:
            data = self._framed(data)
        self._connection.send(data if self._old else data + b"0\r\n\r\n")
        self._end()

    def _framed(self, data: bytes) -> bytes:
        return data if self._old else b"%x\r\n%s\r\n" % (len(data), data)

    def _end(self) -> None:
        self.ended = True
        self._connection.answered(self)

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        if self.answered:
            raise AssertionError("a request is answered once")
        self.answered = True
        lines = b"".join([b"%s: %s\r\n" % header for header in headers])
        if lines.count(b"\n") != len(headers):
            raise AssertionError("a header holds a line break")
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        elif self._old:
            framing += b"connection: keep-alive\r\n"
        return b"%s%s%s%s\r\n" % (_STATUS_LINES[status], self._connection.date_line, lines, framing)
