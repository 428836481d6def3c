"""The emulated engine's HTTP side as a bare ASGI application: OpenAI routes, and what every engine says of itself.

One port for all of it: there is no engine process of its own that a capacity server would have to live in.
"""

import asyncio
import itertools
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from proserve_core.replica import SubmitError
from proserve_engine.capacity_server import CapacityApp
from proserve_engine.emulator.clockwork import Clockwork, TokenFeed
from proserve_engine.emulator.copies import EmulatedCopies
from proserve_engine.emulator.jobs import Job, JobError, chat_job, completion_job, detokenize_text
from proserve_engine.emulator.rendering import Rendering, error_body, models_body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON = [(b"content-type", b"application/json")]
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Disconnected(Exception):  # noqa: N818 - not an error of ours
    """The client went away."""


class EmulatorApp:
    """Routes requests to one `Clockwork`."""

    def __init__(self, clockwork: Clockwork, *, model: str) -> None:
        self._clockwork = clockwork
        self._model = model
        limits = clockwork.replica.limits
        self._max_model_length = limits.blocks * limits.block_size
        copies = clockwork.replica.host
        self._capacity = CapacityApp(
            clockwork, clockwork.decisions, None if copies is None else EmulatedCopies(copies).render
        )
        self._numbers = itertools.count()
        self._routes: dict[tuple[str, str], Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completion,
            ("POST", "/detokenize"): self._detokenize,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"expected an HTTP request, got {scope['type']!r}")
        method, path = scope["method"], scope["path"]
        if self._capacity.serves(path):
            await self._capacity(scope, receive, send)
            return
        try:
            route = self._routes.get((method, path))
            if route is None:
                known = any(path == route_path for _, route_path in self._routes)
                raise JobError(
                    f"{method} {path} does not exist here", status=405 if known else 404, kind="not_found_error"
                )
            await route(scope, receive, send)
        except JobError as error:
            await _reply(send, error.status, error_body(error))

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        job = chat_job(body, model=self._model, max_model_length=self._max_model_length)
        await self._serve(job, f"chatcmpl-{_client_id(scope)}", receive, send)

    async def _completion(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        job = completion_job(body, model=self._model, max_model_length=self._max_model_length)
        await self._serve(job, f"cmpl-{_client_id(scope)}", receive, send)

    async def _detokenize(self, _scope: Scope, receive: Receive, send: Send) -> None:
        text = detokenize_text(await _read(receive), model=self._model)
        await _reply(send, 200, msgspec.json.encode({"prompt": text}))

    async def _serve(self, job: Job, request_id: str, receive: Receive, send: Send) -> None:
        # In vLLM's form, and unique in the engine whatever ids clients choose.
        engine_id = f"{request_id}-{'' if job.chat else '0-'}{next(self._numbers):08x}"
        try:
            feed = self._clockwork.submit(job, engine_id)
        except SubmitError as error:
            raise JobError(str(error)) from error
        rendering = Rendering(job, model=self._model, request_id=request_id)
        answer = asyncio.ensure_future(
            self._stream(job, feed, rendering, send) if job.stream else self._whole(feed, rendering, send)
        )
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
        finally:
            self._clockwork.abort(engine_id)
            answer.cancel()
            gone.cancel()

    async def _stream(self, job: Job, feed: TokenFeed, rendering: Rendering, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        event = rendering.opening()
        while True:
            first, count = await feed.take()
            event += rendering.tokens(first, count)
            if first + count == job.output_tokens:
                break
            await send({"type": "http.response.body", "body": event, "more_body": True})
            event = b""
        await send({"type": "http.response.body", "body": event + rendering.closing()})

    async def _whole(self, feed: TokenFeed, rendering: Rendering, send: Send) -> None:
        while not feed.finished:
            await feed.take()
        await _reply(send, 200, rendering.whole())

    async def _models(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await _reply(send, 200, models_body(self._model, self._max_model_length))

    async def _health(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await _reply(send, 200, b'{"status":"ok"}')


async def _reply(send: Send, status: int, body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*_JSON, length]})
    await send({"type": "http.response.body", "body": body})


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _disconnect(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _client_id(scope: Scope) -> str:
    """The caller's `X-Request-Id` if it is a plain one, else an id of our own."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return uuid.uuid4().hex
