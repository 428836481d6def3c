"""A small HTTP client for token streams: one request per connection, every event stamped as its bytes arrive.

General clients cost more per event than the gateway they would measure (httpx about 20 times as much), so this one is
an `asyncio.Protocol` on httptools that hands each server-sent event to a callback and does nothing else.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import httptools

OnEvent = Callable[[float, bytes], None]
"""Receipt on `time.perf_counter()` and the event's data."""

DONE = b"[DONE]"


class StreamError(Exception):
    """The stream did not reach its end. `status` is the HTTP status, None if there was no reply."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


async def stream(*, url: str, headers: Mapping[str, str], body: bytes, on_event: OnEvent, timeout_s: float) -> float:
    """POST `body` and hand every event to `on_event` until the end mark. Returns when the request was sent.

    Raises:
        StreamError: refused, cut off before the end mark, a status other than 200, or slower than `timeout_s`.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ValueError(f"url: expected http://HOST:PORT/PATH, got {url!r}")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    try:
        async with asyncio.timeout(timeout_s):
            try:
                transport, _ = await loop.create_connection(
                    lambda: _EventStream(on_event, done), parts.hostname, parts.port or 80
                )
            except OSError as error:
                raise StreamError(f"cannot connect to {parts.netloc}: {error}") from error
            try:
                sent_s = time.perf_counter()
                transport.write(_request(parts.netloc, parts.path or "/", headers, body))
                await done
            finally:
                transport.abort()
    except TimeoutError:
        raise StreamError(f"no end of the stream within {timeout_s:g} s") from None
    return sent_s


def _request(host: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {host}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _EventStream(asyncio.Protocol):
    """Parses one reply; `done` gets its end or its error."""

    def __init__(self, on_event: OnEvent, done: "asyncio.Future[None]") -> None:
        self._on_event = on_event
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self._pending = b""
        self._received_s = 0.0

    def data_received(self, data: bytes) -> None:
        self._received_s = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the reply is not HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        self._pending += body
        if self._parser.get_status_code() != 200:
            return
        *events, self._pending = self._pending.split(b"\n\n")
        for event in events:
            if not event.startswith(b"data: "):
                continue
            data = event[6:]
            if data != DONE:
                self._on_event(self._received_s, data)
            elif not self._done.done():
                self._done.set_result(None)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 200:
            self._fail("the stream ended without its end mark", status)
        else:
            self._fail(f"HTTP {status}: {self._pending.decode(errors='replace').strip()}", status)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost before the end of the stream: {exc or 'closed by the server'}")

    def _fail(self, message: str, status: int | None = None) -> None:
        if not self._done.done():
            self._done.set_exception(StreamError(message, status=status))
