"""One client connection: HTTP/1.1 on httptools and asyncio.Protocol, strict about where a request ends.

A server library between socket and application cost more than all it did there (docs/performance.md), so this is what
the data path needs and no more: requests one after another, pipelined ones in their order, bodies and streamed answers
with back-pressure, limits on everything that a client decides.

What is refused is in `framing`; a refused connection is closed, since nobody knows where its next request would begin.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import httptools

from proserve_gateway.errors import ApiError
from proserve_gateway.http.end_probe import EndProbe
from proserve_gateway.http.framing import ONCE, fault_of, twice
from proserve_gateway.http.leaving import has_left
from proserve_gateway.http.request import EARLY_BODY_BYTES, BodyTooSlowError, HttpRequest
from proserve_gateway.http.request_target import path_of

if TYPE_CHECKING:
    from proserve_gateway.http.data_server import DataServer

logger = logging.getLogger(__name__)

MOST_PIPELINED = 16
"""Requests that may wait for the answer to the one before; clients that pipeline more are cut after those."""


class HttpConnection(asyncio.Protocol):
    """A client's connection. Belongs to a `DataServer`, which bounds what it may take."""

    send: Callable[[bytes], None]
    """Write; what one turn of the loop writes leaves together."""

    def __init__(self, server: "DataServer") -> None:
        self._server = server
        self.loop = server.loop
        self.time = server.loop.time
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        """Under way; there is no transport yet."""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._fault: ApiError | None = None
        """What is wrong with the headers so far."""
        self._head_bytes = 0
        self.head_open = False
        """A request has begun whose headers are not complete."""
        self._parted = False
        """A request ended in what came last."""
        self._incoming: HttpRequest | None = None
        """Its body is being received."""
        self.active: HttpRequest | None = None
        """It is being answered."""
        self._task: asyncio.Task[None] | None = None
        self._queue: deque[HttpRequest] = deque()
        self._ahead_bytes = 0
        """Received since a request waits in the queue."""
        self._reading = True
        self._last = False
        """What has been asked is answered, a body on its way included, and nothing more."""
        self._deaf = False
        """Nothing that still comes is looked at."""
        self.paused = False
        """The client takes less than is sent."""
        self._deferred = False
        """The answer is complete and the next request waits until the client has taken it."""
        self._drain: asyncio.Future[None] | None = None
        self._end_probe: EndProbe | None = None
        """The client has ended its side."""

    # For the listener of TLS

    def encrypts(self, handshake: asyncio.Task[None]) -> None:
        """Until there is a transport the connection is no more than its handshake."""
        self._handshake = handshake
        self._server.opened(self)

    def never_encrypted(self) -> None:
        """The handshake has failed; nothing else will be told."""
        self._server.lost(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self._handshake = None
        self.send = self._transport.write
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._server.lost(self)
        self._transport = None
        self._deaf, self._deferred = True, False
        self._queue.clear()
        if self._end_probe is not None:
            self._end_probe.stop()
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        if self.active is not None:
            self.active.left = True
            if self._task is not None:
                self._task.cancel()
        # What refers to this connection, or the garbage collector would have to find it, and with it the body.
        self.active = self._incoming = self._task = None
        del self._parser

    def eof_received(self) -> bool | None:
        """Nothing more will come. True: what was asked for is answered, while the client takes it."""
        transport = self._transport
        if transport is None or self.active is None or self._incoming is not None or self._deferred:
            return False
        if transport.get_extra_info("sslcontext") is not None:
            # TLS has no half of a connection, as far as the loop is concerned.
            return False
        self.last_one()
        self._end_probe = EndProbe(self.loop, self._probe)
        return True

    def _probe(self) -> bool:
        request = self.active
        if self._transport is None or request is None or request.ended:
            return False
        if self.paused or request.probe():
            return True
        self.abort()
        return False

    def data_received(self, data: bytes) -> None:
        self._parted = False
        if self._deaf or not self._parse(data):
            return
        if self._queue:
            # Reading goes on for a while, since it shows at once when the client leaves; then `look_for_end` does.
            self._ahead_bytes += len(data)
            if self._ahead_bytes > EARLY_BODY_BYTES or len(self._queue) >= MOST_PIPELINED:
                self.pause_reading()
        # Of what also held the end of a request nobody knows how much belongs to the next.
        counted = 0 if self._parted else len(data)
        if self.head_open:
            self._head_bytes += counted
            if self._head_bytes > self._server.head_bytes:
                self._too_large()
        elif (incoming := self._incoming) is not None:
            incoming.received_bytes += counted
            if incoming.is_bloated:
                self._too_large()
        elif self.active is None:
            self._server.waiting.awaits_head(self)

    def _parse(self, data: bytes) -> bool:
        """False when nothing more of the connection is looked at."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The handler refuses it; what follows would be another protocol.
            self.last_one()
        except httptools.HttpParserCallbackError:
            logger.exception("a fault of the gateway while it read a request")
            self.abort()
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._refuse(400, "invalid_http", f"the request is not valid HTTP/1.1: {error}")
        return not self._deaf

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        if self._deferred:
            self._deferred = False
            self._server.waiting.busy(self)
            self._next()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._fault = None
        self._head_bytes = 0
        self.head_open = True
        if self.active is None:
            self._server.waiting.awaits_head(self)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_open:
            return  # a trailer: nobody reads it
        name = name.lower()
        headers = self._headers
        if name in headers and name in ONCE:
            self._fault = twice(name)
        headers[name] = value

    def on_headers_complete(self) -> None:
        self.head_open = False
        if self._deaf:
            return
        parser, headers = self._parser, self._headers
        version = parser.get_http_version()
        old = version != "1.1"
        fault = self._fault or fault_of(headers, version)
        if fault is not None:
            self._refuse_with(fault)
            return
        request = self._incoming = HttpRequest(
            self,
            method=parser.get_method(),
            path=path_of(self._url),
            headers=headers,
            keep_alive=parser.should_keep_alive(),
            old=old,
        )
        if self.active is None:
            self._start(request)
        elif len(self._queue) < MOST_PIPELINED:
            self._queue.append(request)
        else:
            self._incoming = None
            self.last_one()

    def on_body(self, data: bytes) -> None:
        if self._incoming is not None:
            self._incoming.add_body(data)

    def on_message_complete(self) -> None:
        self._parted = True
        request, self._incoming = self._incoming, None
        if request is not None:
            request.completed()
            self._deaf = self._deaf or self._last
            if request.ended:
                self.answered(request)

    # One request after another

    def _start(self, request: HttpRequest) -> None:
        self.active = request
        self._server.waiting.busy(self)
        self._task = self.loop.create_task(self._answer(request))

    async def _answer(self, request: HttpRequest) -> None:
        try:
            await self._server.handler(request)
        except Exception:
            logger.exception("a fault of the gateway while it answered %s", request.path)
        finally:
            if not request.ended:
                self.abort()

    def answered(self, request: HttpRequest) -> None:
        """The answer is complete."""
        self._task = None
        if not request.keep_alive:
            self.close()
        elif request.complete:
            self._next()
        else:
            # What is left of the body is thrown away, or the client would never see the answer.
            request.body_until_s = self.time() + self._server.discard_s
            self.awaits_body()

    def _next(self) -> None:
        if self.paused:
            # Who pipelines and reads nothing would fill memory with answers. `active` stays, so nothing begins; without
            # a request under way the connection counts as idle, so it is closed in time and makes room for others.
            self._deferred = True
            self._server.waiting.idle(self)
            return
        if self._queue:
            self._start(self._queue.popleft())
        else:
            self.active = None
            if self.head_open:
                self._server.waiting.awaits_head(self)
            else:
                self._server.waiting.idle(self)
        if not self._queue:
            self._ahead_bytes = 0
            self.resume_reading()

    # How it ends

    def last_one(self) -> None:
        """Answer what has been asked and close then."""
        self._last = True
        self._deaf = self._deaf or self._incoming is None
        last = self._queue[-1] if self._queue else self.active
        if last is None or (self._deferred and not self._queue):
            self.close()
        else:
            last.keep_alive = False

    def too_slow(self) -> None:
        """What the client should have sent is late."""
        request = self.active
        if request is not None and not request.answered:
            request.fail(BodyTooSlowError())
        elif request is None and self.head_open:
            self._refuse(408, "request_timeout", "the request's headers did not arrive in time: send them at once")
        else:
            self.close()

    def look_for_end(self) -> None:
        """End it if the client has left; to be asked now and then, as nothing shows it while nothing is read."""
        transport = self._transport
        if self._reading or transport is None or transport.is_closing():
            return
        if has_left(transport.get_extra_info("socket").fileno()):
            self.abort()

    def _too_large(self) -> None:
        most = self._server.head_bytes
        self._refuse(431, "headers_too_large", f"headers, chunk extensions or trailers are larger than {most} bytes")

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._refuse_with(ApiError(status=status, code=code, error_type="invalid_request_error", message=message))

    def _refuse_with(self, error: ApiError) -> None:
        """End the connection: nobody knows where a next request would begin. What was asked before is answered."""
        self._deaf = True
        self.head_open = False
        incoming, self._incoming = self._incoming, None
        if incoming is not None and incoming.ended:
            self.close()
        elif incoming is not None or self.active is not None:
            if incoming is not None:
                incoming.fail(error)
            self.last_one()
        else:
            self._server.handler.refused(error)
            request = HttpRequest(self, method=b"", path="", headers={}, keep_alive=False)
            request.reply(error.status, [(b"content-type", b"application/json")], error.body())

    def close(self) -> None:
        """Close when everything written is sent."""
        self._deaf, self._deferred = True, False
        self._server.waiting.busy(self)
        if self._handshake is not None:
            self._handshake.cancel()
        elif self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._deaf, self._deferred = True, False
        self._server.waiting.busy(self)
        if self._handshake is not None:
            self._handshake.cancel()
        elif self._transport is not None:
            self._transport.abort()

    # For requests

    @property
    def date_line(self) -> bytes:
        return self._server.date_line

    def awaits_body(self) -> None:
        """Read on; until the body is here the connection may make room for others."""
        self._server.waiting.awaits_body(self)
        self.resume_reading()

    def has_body(self) -> None:
        """The body that was awaited is here."""
        self._server.waiting.busy(self)

    def pause_reading(self) -> None:
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written."""
        while self.paused and self._transport is not None:
            self._drain = self.loop.create_future()
            try:
                await self._drain
            finally:
                self._drain = None
