"""An OpenAI server on loopback that answers as vLLM does, or goes wrong exactly as a test says.

Raw asyncio streams, so that it can break an answer at any byte.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from proserve_gateway.fleet.target import EngineTarget


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

    def hang_up(self) -> None:
        """Close the connection after what was written, wherever in the answer that is."""
        self._writer.close()

    def reset(self) -> None:
        self._writer.transport.abort()


PROMPT_IDS = [1, 2, 3, 4, 5, 6, 7]
FIRST_TOKEN_ID = 100
"""Output token number n has the id `FIRST_TOKEN_ID + n` and a text of its own."""


def text_of_token(number: int) -> str:
    return f"t{number} "


Behaviour = Callable[[FakeRequest, Reply], Awaitable[None]]


class FakeEngine:
    """One engine. Set `behave` to make it go wrong."""

    def __init__(self, name: str = "engine") -> None:
        self.name = name
        self.behave: Behaviour = self.generate
        self.requests: list[FakeRequest] = []
        """Without the probes of `/v1/models` and `/metrics`."""
        self.asked = asyncio.Event()
        """The first request is here."""
        self.client_left = asyncio.Event()
        """A connection ended while its request was being answered."""
        self.token_gate: asyncio.Event | None = None
        """When set, `generate` waits for it before the third token."""
        self.break_before: int | None = None
        """When set, `generate` hangs up before this token."""
        self.texts: Callable[[int], str] = text_of_token
        """Text of an output token by its number, as far as it can be sent: an incomplete character is \ufffd."""
        self.special: Mapping[int, str] = {}
        """Output tokens by number that `/detokenize` writes like this and streams leave out."""
        self.chunk_tokens = 1
        """Tokens that `generate` sends at once."""
        self.port = 0
        self.tls: ssl.SSLContext | None = None

    def target(self, pool: str = "tiny") -> EngineTarget:
        return EngineTarget(name=self.name, pool=pool, base_url=self.url, api_key="engine-key")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def generate(self, request: FakeRequest, reply: Reply) -> None:
        """As vLLM: a role chunk, chunks of tokens, usage and token ids as asked for, held back what may begin a stop
        string (none is ever found). A prompt of ids may end with output tokens: the answer goes on after them."""
        body = request.body
        if request.path == "/detokenize":
            ids = [id_ - FIRST_TOKEN_ID for id_ in body["tokens"] if id_ >= FIRST_TOKEN_ID]
            await reply.json(200, {"prompt": "".join([self.special.get(id_) or self.texts(id_) for id_ in ids])})
            return
        prompt = body.get("prompt")
        said = len([id_ for id_ in prompt if id_ >= FIRST_TOKEN_ID]) if isinstance(prompt, list) else 0
        tokens = int(body.get("max_completion_tokens") or body.get("max_tokens") or 4)
        prompt_tokens = len(PROMPT_IDS) + said
        usage = {
            "prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + tokens, "completion_tokens": tokens
        }  # fmt: skip
        chat = request.path == "/v1/chat/completions"
        shared = {"id": f"cmpl-{self.name}", "created": self.port, "model": body["model"]}
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

        async def send(index: int, delta: dict[str, Any], text: str, finish: str | None, count: int, ids: int) -> None:
            choice = {"index": index, "delta": delta} if chat else {"index": index, "text": text}
            choice["finish_reason"] = finish
            chunk: dict[str, Any] = {**shared, "object": kind, "choices": [choice]}
            if options.get("continuous_usage_stats"):
                chunk["usage"] = {**usage, "total_tokens": prompt_tokens + count, "completion_tokens": count}
            if body.get("return_token_ids"):
                first = count == (0 if chat else ids)
                (chunk if chat else choice)["prompt_token_ids"] = PROMPT_IDS if first else None
                if count:
                    end = FIRST_TOKEN_ID + said + count
                    choice["token_ids"] = list(range(end - ids, end))
            await reply.event(chunk)

        choices = int(body.get("n") or 1)
        for index in range(choices if chat else 0):
            await send(index, {"role": "assistant", "content": ""}, "", None, 0, 0)
        stop = body.get("stop") or []
        longest = max(map(len, [stop] if isinstance(stop, str) else stop), default=1)
        held = whole = ""
        shown = together = 0
        for number in range(tokens):
            if number == 2 and self.token_gate is not None:
                await self.token_gate.wait()
            if said + number == self.break_before:
                reply.hang_up()
                return
            together += 1
            # Text is sent in whole characters: \ufffd is the beginning of one, and stands for it in the end.
            held += "" if said + number in self.special else self.texts(said + number)
            last = number == tokens - 1
            if last or not held.endswith("\ufffd"):
                whole, held = whole + held.lstrip("\ufffd"), ""
            if together < self.chunk_tokens and not last:
                continue
            end = len(whole) if last else max(shown, len(whole) - longest + 1)
            text, shown = whole[shown:end], end
            for index in range(choices):
                await send(index, {"content": text}, text, "length" if last else None, number + 1, together)
            together = 0
        if options.get("include_usage"):
            total = {
                "prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + tokens * choices,
                "completion_tokens": tokens * choices,
            }  # fmt: skip
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
                if request.path == "/metrics":
                    await Reply(writer).json(404, {"error": {"message": "no metrics here"}})
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
async def fake_engine(name: str = "engine", *, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeEngine]:
    """A running engine."""
    engine = FakeEngine(name)
    engine.tls = tls
    server = await asyncio.start_server(engine.on_connection, "127.0.0.1", 0, ssl=tls)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
