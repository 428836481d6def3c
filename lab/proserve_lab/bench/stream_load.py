"""Upstream and client of streams in one process, so that one clock stamps a chunk when it leaves and when it is here.

Reads commands from standard input, one JSON object a line, and answers each with one line: `python -m
proserve_lab.bench.stream_load UPSTREAM_PORT`. The upstream writes chunks as vLLM does, every `interval_ms` one per
stream, spread over the interval; a chunk's text is the time at which it left. Used through a proxy and without one: the
difference is the proxy's.
"""

import asyncio
import gc
import re
import statistics
import sys
import time
from typing import cast

import msgspec

from proserve_lab.bench.proxies import API_KEY, MODEL, request_body

_GROUPS = 10
"""Parts of an interval: streams of one part are written together."""
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_MODELS = b'{"object":"list","data":[{"id":"%s","object":"model","owned_by":"vllm"}]}' % MODEL.encode()
_EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","choices":[{"index":0,%s:"@%017.6f"%s,"logprobs":null,"finish_reason":%s}],'
    b'"usage":{"prompt_tokens":120,"total_tokens":%d,"completion_tokens":%d}}\n\n'
)
_REPLY = (
    b'{"id":"cmpl-1","object":"text_completion","created":1,"model":"bench","choices":[{"index":0,"text":"ok",'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":120,"total_tokens":121,"completion_tokens":1}}'
)
_DONE = b"data: [DONE]\n\n"
_STREAMS = re.compile(rb'"stream":\s*true')
_MAX_TOKENS = re.compile(rb'"max_tokens":\s*(\d+)')


class StreamCommand(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    port: int
    streams: int
    chunks: int
    """Of one stream."""
    interval_ms: float = 10.0
    seconds: float = 5.0
    """Streams that end before begin anew."""


class StreamTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement found."""

    streams: int
    """That began."""
    chunks: int
    first_byte_us: list[float]
    """p50 and p99, from the request to the first chunk."""
    delay_us: list[float]
    """p50 and p99, from the upstream to the client."""
    errors: int


class _Stream(asyncio.Protocol):
    """One connection of the upstream."""

    def __init__(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        self._data = b""
        self.left = 0
        self._sent = 0
        self._chat = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._upstream.ended(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if not end or len(body) < (int(length[1]) if length else 0):
            return
        self._data = b""
        if head.startswith(b"GET /v1/models"):
            self._whole(b"200 OK", _MODELS)
        elif head.startswith(b"GET "):
            self._whole(b"404 Not Found", b"{}")
        elif _STREAMS.search(body) is None:
            self._whole(b"200 OK", _REPLY)
        else:
            self._chat = not head.startswith(b"POST /v1/completions")
            most = _MAX_TOKENS.search(body)
            self.left, self._sent = int(most[1]) if most else 16, 0
            self._transport.write(_HEAD)
            if self.tick():
                self._upstream.began(self)

    def _whole(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        self._transport.write(head + body)

    def tick(self) -> bool:
        """Write the next chunk; False when it was the last."""
        self.left -= 1
        self._sent += 1
        reason = b"null" if self.left else b'"length"'
        before, after = (b'"delta":{"content"', b"}") if self._chat else (b'"text"', b"")
        event = _EVENT % (before, time.monotonic(), after, reason, 120 + self._sent, self._sent)
        if self.left:
            self._transport.write(b"%x\r\n%s\r\n" % (len(event), event))
            return True
        event += _DONE
        self._transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event))
        return False


class Upstream:
    """An engine that does nothing but write chunks in time."""

    def __init__(self) -> None:
        self.interval_s = 0.01
        self._groups: list[set[_Stream]] = [set() for _ in range(_GROUPS)]
        self._next = 0

    def began(self, stream: _Stream) -> None:
        """To be ticked, beginning an interval from now."""
        self._groups[(self._next - 1) % _GROUPS].add(stream)

    def ended(self, stream: _Stream) -> None:
        """Not any more."""
        for group in self._groups:
            group.discard(stream)

    async def run(self) -> None:
        """Tick one group after the other."""
        due_s = time.monotonic()
        while True:
            group = self._groups[self._next]
            self._next = (self._next + 1) % _GROUPS
            for stream in [stream for stream in group if not stream.tick()]:
                group.discard(stream)
            due_s = max(due_s + self.interval_s / _GROUPS, time.monotonic() - self.interval_s)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))


class _Client(asyncio.Protocol):
    """One connection that asks for one stream after another."""

    def __init__(self, request: bytes, times: "_Times") -> None:
        self._request = request
        self._times = times
        self._asked_s = 0.0
        self._began = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._times.errors += not self._times.over

    def _ask(self) -> None:
        self._times.streams += 1
        self._began = False
        self._asked_s = time.monotonic()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        times = self._times
        if self._tail:
            data, self._tail = self._tail + data, b""
        at = data.find(b'"@')
        while at >= 0:
            stamp = data[at + 2 : at + 19]
            if len(stamp) < 17:
                self._tail = data[at:]
                return
            if not self._began:
                self._began = True
                times.first_s.append(now_s - self._asked_s)
            times.delays_s.append(now_s - float(stamp))
            at = data.find(b'"@', at + 19)
        if data.endswith(b"0\r\n\r\n") and self._began:
            if times.over:
                self._transport.close()
            else:
                self._ask()


class _Times:
    def __init__(self) -> None:
        self.streams = 0
        self.first_s: list[float] = []
        self.delays_s: list[float] = []
        self.errors = 0
        self.over = False


async def measure(upstream: Upstream, command: StreamCommand) -> StreamTimes:
    """Run one command."""
    upstream.interval_s = command.interval_ms / 1e3
    body = request_body(max_tokens=command.chunks, stream=True).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s" % (API_KEY.encode(), len(body), body)
    )
    times = _Times()
    loop = asyncio.get_running_loop()
    transports = []
    for _ in range(command.streams):
        transport, _ = await loop.create_connection(lambda: _Client(request, times), "127.0.0.1", command.port)
        transports.append(transport)
        await asyncio.sleep(command.interval_ms / 1e3 / command.streams)
    # What connecting and beginning cost is not part of it.
    times.delays_s.clear()
    await asyncio.sleep(command.seconds)
    times.over = True
    result = StreamTimes(
        streams=times.streams,
        chunks=len(times.delays_s),
        first_byte_us=_percentiles_us(times.first_s),
        delay_us=_percentiles_us(times.delays_s),
        errors=times.errors,
    )
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0.2)
    return result


def _percentiles_us(values_s: list[float]) -> list[float]:
    if len(values_s) < 2:
        return []
    cuts = statistics.quantiles(values_s, n=100)
    return [cuts[49] * 1e6, cuts[98] * 1e6]


async def _main(port: int) -> None:
    gc.disable()
    loop = asyncio.get_running_loop()
    upstream = Upstream()
    server = await loop.create_server(lambda: _Stream(upstream), "127.0.0.1", port, backlog=2048)
    ticking = asyncio.create_task(upstream.run())
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        result = await measure(upstream, msgspec.json.decode(line, type=StreamCommand))
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()
        gc.collect()
    ticking.cancel()
    server.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main(int(sys.argv[1])))
