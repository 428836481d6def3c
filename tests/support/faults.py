"""Ways in which an engine's answer goes wrong, as behaviours of a `FakeEngine`, and what clients may see of them."""

import asyncio
import json
from typing import Any, cast

import msgspec

from fake_openai_engine import Behaviour, FakeEngine, FakeRequest, Reply

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class _Recorder:
    """A stream writer that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None: ...


async def recorded(request: FakeRequest) -> bytes:
    """A whole good answer, byte for byte."""
    recorder = _Recorder()
    await FakeEngine("faulty").generate(request, Reply(cast(asyncio.StreamWriter, recorder)))
    return recorder.data


def cut_at(position: int, *, reset: bool) -> Behaviour:
    """A good answer up to a byte, then the end of the connection."""

    async def behave(request: FakeRequest, reply: Reply) -> None:
        await reply.raw((await recorded(request))[:position])
        if reset:
            reply.reset()
        else:
            reply.hang_up()

    return behave


def saying(*pieces: bytes, hang: bool = False) -> Behaviour:
    """Exactly these bytes, then the end of the connection or nothing more."""

    async def behave(request: FakeRequest, reply: Reply) -> None:
        for piece in pieces:
            await reply.raw(piece)
        if hang:
            await asyncio.sleep(60)
        reply.hang_up()

    return behave


def chunked(*events: bytes, end: bool = True) -> bytes:
    """A streamed answer of these events."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + body + (b"0\r\n\r\n" if end else b"")


def token(number: int, *, finish: str | None = None) -> bytes:
    """One chunk as vLLM writes it."""
    choice = {
        "index": 0, "text": f"t{number} ", "finish_reason": finish,
        "prompt_token_ids": [1, 2, 3, 4, 5, 6, 7] if number == 0 else None, "token_ids": [100 + number],
    }  # fmt: skip
    shared = {"id": "cmpl-faulty", "object": "text_completion", "created": 1, "model": "tiny"}
    chunk = {**shared, "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": number + 1}}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


async def drip(request: FakeRequest, reply: Reply) -> None:
    """A good answer, a few bytes at a time."""
    data = await recorded(request)
    for at in range(0, len(data), 50):
        await reply.raw(data[at : at + 50])
        await asyncio.sleep(0)


async def endless_stream(request: FakeRequest, reply: Reply) -> None:
    await reply.raw(chunked(token(0), end=False))
    while True:
        await reply.chunk(b": nothing\n\n")
        await asyncio.sleep(0.001)


async def endless_headers(request: FakeRequest, reply: Reply) -> None:
    await reply.raw(HEAD)
    while True:
        await reply.raw(b"x-more: " + b"y" * 1000 + b"\r\n")


DONE = b"data: [DONE]\n\n"
ONE = token(0)

BROKEN_STREAMS: dict[str, Behaviour] = {
    "early end without [DONE]": saying(chunked(ONE)),
    "connection closed inside": saying(chunked(ONE, end=False)),
    "[DONE] without a reason to finish": saying(chunked(ONE, DONE)),
    "given up": saying(chunked(ONE, token(1, finish="abort"), DONE)),
    "error event": saying(chunked(ONE, b'data: {"error":{"message":"boom","code":500}}\n\n', DONE)),
    "chunk size that is no number": saying(chunked(ONE, end=False) + b"zz\r\nabc\r\n"),
    "chunk longer than it says": saying(chunked(ONE, end=False) + b"3\r\ndata: {}\n\n\r\n"),
    "event that is no JSON": saying(chunked(ONE, b"data: <html>\n\n", DONE)),
    "event that ends too early": saying(chunked(ONE, b'data: {"choices":[{"ind\n\n', DONE)),
    "event with a number for choices": saying(chunked(ONE, b'data: {"choices":5,"error":null}\n\n', DONE)),
    "reason to finish that is not UTF-8": saying(chunked(ONE, token(1, finish="?").replace(b"?", b"\xff"), DONE)),
    "key that is not UTF-8": saying(chunked(ONE, token(1, finish="length").replace(b'"id"', b'"\xff"'), DONE)),
    "error event that is not UTF-8": saying(chunked(ONE, b'data: {"error":{"code":"\xff"}}\n\n', DONE)),
    "silence": saying(chunked(ONE, end=False), hang=True),
    "endless comments": endless_stream,
}
"""Streams that go wrong after a token."""

NO_ANSWERS: dict[str, Behaviour] = {
    "closed at once": saying(),
    "silence": saying(hang=True),
    "half a status line": saying(b"HTTP/1.", hang=True),
    "not HTTP": saying(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "HTTP/2": saying(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "another protocol": saying(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
    "huge headers": saying(HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n"),
    "endless headers": endless_headers,
    "contradicting lengths": saying(HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "server error": saying(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n"),
    "server error that is cut off": saying(b"HTTP/1.1 500 X\r\ncontent-length: 50\r\n\r\nouch"),
    "redirect": saying(b"HTTP/1.1 307 X\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n"),
    "no content": saying(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "empty stream": saying(chunked()),
    "only [DONE]": saying(chunked(DONE)),
    "page instead of a stream": saying(JSON_HEAD + b"content-length: 6\r\n\r\n<html>"),
    "stream of a page": saying(chunked(b"<html>\n\n", b"</html>\n\n")),
    "request given up": saying(
        JSON_HEAD + b'content-length: 51\r\n\r\n{"choices":[{"text":"t0","finish_reason":"abort"}]}'
    ),
    "server error that is not UTF-8": saying(
        b"HTTP/1.1 500 X\r\ncontent-length: 26\r\n\r\n" + b'{"error":{"message":"\xe9\xe9"}}'
    ),
    "reason to finish that is not UTF-8": saying(
        JSON_HEAD + b'content-length: 47\r\n\r\n{"choices":[{"text":"t0","finish_reason":"\xff"}]}'
    ),
    "length that is too long": saying(JSON_HEAD + b'content-length: 99\r\n\r\n{"choices":[]}'),
    "length that is too short": saying(JSON_HEAD + b'content-length: 9\r\n\r\n{"choices":[]}'),
}
"""Answers that are none."""


WAITED_FOR = frozenset({"silence", "half a status line", "endless headers", "endless comments"})
"""What only time ends."""


class Outcome(msgspec.Struct, frozen=True):
    """What a client may conclude."""

    kind: str
    """full, error or unclear; the last must never be."""
    text: str = ""


def outcome(status: int, content_type: str, body: str) -> Outcome:
    """Judge a reply as OpenAI's clients do."""
    if status != 200:
        return Outcome("error" if "message" in json.loads(body)["error"] else "unclear")
    if not content_type.startswith("text/event-stream"):
        choice = json.loads(body)["choices"][0]
        return Outcome("full" if choice["finish_reason"] else "unclear", choice["text"])
    *events, end = body.removesuffix("\n\n").split("\n\n")
    if end != "data: [DONE]":
        return Outcome("unclear")
    chunks: list[dict[str, Any]] = [json.loads(event[6:]) for event in events if event.startswith("data: ")]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    text = "".join(choice["text"] for choice in choices)
    if "error" in chunks[-1]:
        return Outcome("error", text)
    return Outcome("full" if [c for c in choices if c["finish_reason"]] == choices[-1:] else "unclear", text)


async def refuse(request: FakeRequest, reply: Reply) -> None:
    await reply.json(400, {"error": {"message": "no"}})


async def be_busy(request: FakeRequest, reply: Reply) -> None:
    await reply.json(429, {"error": {"message": "busy"}})


async def report_an_error(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.event({"error": {"message": "bad", "code": 400}})
    await reply.end()
