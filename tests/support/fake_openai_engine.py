"""An OpenAI server on loopback that answers as vLLM does, or goes wrong exactly as a test says.

Raw asyncio streams, so that it can break an answer at any byte.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from proserve_gateway.fleet_target import EngineTarget


class FakeRequest:
    """What the gateway sent."""

    def __init__(self, path: str, headers: dict[str, str], raw: bytes) -> None:
        self.path = path
        self.headers = headers
        self.raw = raw
        self.body: dict[str, Any] = json.loads(raw) if raw else {}


class Reply:
    """Writes one answer."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def whole(self, status: int, body: bytes, headers: str = "") -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        await self.raw(head.encode() + body)

    async def json(self, status: int, value: object, headers: str = "") -> None:
        await self.whole(status, json.dumps(value).encode(), headers)

    async def start_stream(self) -> None:
        await self.raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, value: object) -> None:
        data = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        await self.chunk(f"data: {data}\n\n".encode())

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        self._writer.transport.abort()


Behaviour = Callable[[FakeRequest, Reply], Awaitable[None]]


class FakeEngine:
    """One engine. Set `behave` to make it go wrong."""

    def __init__(self, name: str = "engine") -> None:
        self.name = name
        self.behave: Behaviour = self.generate
        self.requests: list[FakeRequest] = []
        """Without the probes of `/v1/models`."""
        self.asked = asyncio.Event()
        """The first request is here."""
        self.client_left = asyncio.Event()
        """A connection ended while its request was being answered."""
        self.token_gate: asyncio.Event | None = None
        """When set, `generate` waits for it before the third token."""
        self.port = 0

    def target(self, pool: str = "tiny") -> EngineTarget:
        return EngineTarget(name=self.name, pool=pool, base_url=self.url, api_key="engine-key")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def generate(self, request: FakeRequest, reply: Reply) -> None:
        """As vLLM: a role chunk, one chunk per token, usage as asked for."""
        body = request.body
        tokens = int(body.get("max_completion_tokens") or body.get("max_tokens") or 4)
        usage = {"prompt_tokens": 7, "total_tokens": 7 + tokens, "completion_tokens": tokens}
        chat = request.path == "/v1/chat/completions"
        shared = {"id": "cmpl-1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            text = "".join(f"t{i} " for i in range(tokens))
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
            choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            kind = "chat.completion" if chat else "text_completion"
            await reply.json(200, {**shared, "object": kind, "choices": [choice], "usage": usage})
            return
        options = body.get("stream_options") or {}
        kind = "chat.completion.chunk" if chat else "text_completion"
        await reply.start_stream()

        async def send(index: int, delta: dict[str, Any], text: str, finish: str | None, count: int) -> None:
            choice = {"index": index, "delta": delta} if chat else {"index": index, "text": text}
            chunk: dict[str, Any] = {**shared, "object": kind, "choices": [{**choice, "finish_reason": finish}]}
            if options.get("continuous_usage_stats"):
                chunk["usage"] = {"prompt_tokens": 7, "total_tokens": 7 + count, "completion_tokens": count}
            await reply.event(chunk)

        choices = int(body.get("n") or 1)
        for index in range(choices if chat else 0):
            await send(index, {"role": "assistant", "content": ""}, "", None, 0)
        for number in range(tokens):
            if number == 2 and self.token_gate is not None:
                await self.token_gate.wait()
            for index in range(choices):
                finish = "length" if number == tokens - 1 else None
                await send(index, {"content": f"t{number} "}, f"t{number} ", finish, number + 1)
        if options.get("include_usage"):
            total = {"prompt_tokens": 7, "total_tokens": 7 + tokens * choices, "completion_tokens": tokens * choices}
            await reply.event({**shared, "object": kind, "choices": [], "usage": total})
        await reply.event("[DONE]")
        await reply.end()

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await _read(reader)
                if request.path == "/v1/models":
                    await Reply(writer).json(200, {"object": "list", "data": []})
                    continue
                self.requests.append(request)
                self.asked.set()
                await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _answer(self, request: FakeRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer, and notice a client that leaves meanwhile, as uvicorn does."""
        answering = asyncio.ensure_future(self.behave(request, Reply(writer)))
        leaving = asyncio.ensure_future(_end_of(reader))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise ConnectionResetError
            answering.result()
        except ConnectionError:
            self.client_left.set()
            raise
        finally:
            for task in (answering, leaving):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leaving


async def _end_of(reader: asyncio.StreamReader) -> None:
    """Wait for the other side to close; it sends nothing while it waits for an answer."""
    while not reader.at_eof():  # noqa: ASYNC110 a read would take the next request
        await asyncio.sleep(0.002)


async def _read(reader: asyncio.StreamReader) -> FakeRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return FakeRequest(first.split(" ")[1], headers, await reader.readexactly(int(headers["content-length"])))


@contextlib.asynccontextmanager
async def fake_engine(name: str = "engine") -> AsyncIterator[FakeEngine]:
    """A running engine."""
    engine = FakeEngine(name)
    server = await asyncio.start_server(engine.on_connection, "127.0.0.1", 0)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
