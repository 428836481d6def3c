"""One request to an engine and its answer, as the data path sees it; `connection` brings the bytes.

An answer is complete only when its framing says so (content length, last chunk); anything else is an error, never a
short success.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from proserve_gateway.fleet.progress import STUCK_S

if TYPE_CHECKING:
    from proserve_gateway.upstream.connection import Connection


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
    STUCK = "stuck"
    """The engine answers its polls, but computes nothing."""
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
    """Silence after which an exchange is given up when its engine misses its polls or is stuck: an engine that is only
    too busy for polls still sends tokens."""
    stuck_s: float = STUCK_S
    """How long an engine that has work and answers its polls may show nothing of that work."""
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
        "_pump",
        "_silent_s",
        "_waiter",
        "complete",
        "end_s",
        "failure",
        "head_complete",
        "headers",
        "last_s",
        "on_stall",
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
        self._pump: Callable[[bytes], bool] | None = None
        """Gets what comes at once, and says whether it wants more like this."""
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
        self.on_stall: Callable[[], object] | None = None
        """Called when the reader took nothing for too long."""
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
            self._raise_failure()
            await self._wait()

    async def read(self) -> bytes:
        """All that has come since the last read, in one piece; b"" when the answer is complete.

        Raises:
            UpstreamError: the answer did not end as it should; everything that came before was returned first.
        """
        while True:
            if self._chunks:
                return self._buffer()
            self._raise_failure()
            if self.complete:
                return b""
            await self._wait()

    async def pump(self, take: Callable[[bytes], bool]) -> None:
        """Give what comes to `take` as it comes, until that returns False or nothing comes any more: `read` says why.

        A stream's task is not woken for each of its chunks, which costs about as much as all else that is done to one.
        """
        while self._chunks:
            if not take(self._buffer()):
                return
        if self.failure is None and not self.complete:
            self._pump = take
            try:
                await self._wait()
            finally:
                self._pump = None

    def _buffer(self) -> bytes:
        """Take everything that has come."""
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        if self.paused:
            self._resume()
        return data

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

    def give_up_if_silent(self, kind: FailureKind, why: str) -> None:
        """The engine hangs, as `kind` and `why` say: fail the exchange unless something came lately."""
        quiet_s = self._loop.time() - self.last_s
        if quiet_s >= self._silent_s and not self.paused:
            self.stop(kind, f"the engine sent nothing for {quiet_s:.1f} s and {why}")

    def stop(self, kind: FailureKind, message: str) -> None:
        """Fail the exchange from this side; nothing happens when it is over already."""
        connection = self._connection
        if connection is not None:
            self.fail(UpstreamError(kind, message))
            connection.discard()
            if kind is FailureKind.STALLED and self.on_stall is not None:
                self.on_stall()

    def _raise_failure(self) -> None:
        """As an exception that is not kept here: one that was raised refers to its frames and so to the request's body,
        which only the garbage collector could free."""
        if (failure := self.failure) is not None:
            raise UpstreamError(failure.kind, str(failure))

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
        """Something has come, or nothing will any more."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._pump is not None and self._chunks:
            try:
                wants_more = self._pump(self._buffer())
            except Exception as error:  # noqa: BLE001 - raised where the stream is awaited
                waiter.set_exception(error)
                return
            if wants_more and not self.complete and self.failure is None:
                return
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
