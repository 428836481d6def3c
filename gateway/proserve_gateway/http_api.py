"""The data path over HTTP: OpenAI's routes as a bare ASGI application.

No web framework: Starlette adds about as much time to a request as everything here together. The application is
written for uvicorn and uses of ASGI only what every server has.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from proserve_gateway.answer import Answer
from proserve_gateway.catalog import TenantGrant
from proserve_gateway.catalog_terms import CONTROL_HEADERS
from proserve_gateway.dispatch import Dispatcher
from proserve_gateway.errors import ApiError
from proserve_gateway.inference_request import InferenceRequest
from proserve_gateway.intake import Intake, new_request_id
from proserve_gateway.request_body import BodyKind
from proserve_gateway.trace_context import TraceContext, trace_context

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

logger = logging.getLogger(__name__)

ROUTES: dict[str, BodyKind] = {
    "/v1/chat/completions": BodyKind.CHAT,
    "/v1/completions": BodyKind.COMPLETION,
    "/v1/embeddings": BodyKind.OTHER,
    "/v1/rerank": BodyKind.OTHER,
    "/v1/score": BodyKind.OTHER,
    "/tokenize": BodyKind.OTHER,
    "/detokenize": BodyKind.OTHER,
}
"""What reaches an engine. A list and not a prefix, because engines also have routes that change them."""
MODELS = "/v1/models"
RESPONSES = "/v1/responses"
"""Not served: its events are others than those that tokens are judged by. Clients ask for it by default."""

_CONTROL = frozenset(name.encode() for name in CONTROL_HEADERS)
_PRINTABLE = re.compile(rb"[\x21-\x7e]{1,128}")


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may take."""

    body_bytes: int = 4 * 2**20
    body_s: float = 60.0
    """To receive the whole body."""


class _ClientLeftError(Exception):
    """The connection ended before the request was complete."""


class HttpApi:
    """ASGI application of the data port."""

    def __init__(
        self,
        *,
        intake: Intake,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        limits: HttpLimits | None = None,
    ) -> None:
        """`clock` is the one of the dispatcher: deadlines count from the arrival that is stamped here."""
        self._intake = intake
        self._dispatcher = dispatcher
        self._clock = clock
        self._limits = limits or HttpLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival_s = self._clock()
        if scope["type"] != "http":
            raise RuntimeError(f"the data port speaks http only, not {scope['type']}")
        request_id = new_request_id()
        headers = dict(scope["headers"])
        identity = _identity(request_id, headers)
        try:
            kind = ROUTES.get(scope["path"])
            if kind is None:
                await self._models(scope, headers, identity, send)
                return
            if scope["method"] != "POST":
                raise self._counted(_method_not_allowed(scope, "POST"))
            grant = self._intake.authenticate(headers.get(b"authorization"))
            body = await self._body(headers, receive, grant)
            request = self._intake.accept(
                grant,
                request_id=request_id,
                arrival_s=arrival_s,
                control=_control(headers),
                kind=kind,
                path=scope["path"],
                body=body,
                trace=_trace(headers),
            )
            await self._answer(request, identity, receive, send)
        except ApiError as error:
            await _send_error(error, identity, send)
        except _ClientLeftError:
            return

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, grant: TenantGrant) -> bytes:
        limit = self._limits.body_bytes
        announced = headers.get(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > limit:
            raise self._counted(_too_large(limit), grant)
        pieces: list[bytes] = []
        size = 0
        # A bare timer: asyncio.timeout() costs several times as much, and this runs for every request.
        alarm = _Alarm(self._limits.body_s)
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientLeftError
                piece = message.get("body", b"")
                size += len(piece)
                if size > limit:
                    raise self._counted(_too_large(limit), grant)
                pieces.append(piece)
                if not message.get("more_body", False):
                    if size == 0 and b"upgrade" in headers:
                        raise self._counted(_no_upgrade(headers[b"upgrade"]), grant)
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except asyncio.CancelledError:
            if not alarm.rang:
                raise
            raise self._counted(_too_slow(self._limits.body_s), grant) from None
        finally:
            alarm.stop()

    async def _answer(self, request: InferenceRequest, identity: Headers, receive: Receive, send: Send) -> None:
        """Pass the engine's answer on; the client's leaving cancels whatever is awaited, the engine's work included."""
        watch = _Watch(receive)
        answer: Answer | None = None
        try:
            answer = await self._dispatcher.answer(request)
            await send(self._start(request, answer, identity))
            body = answer.first
            while not answer.ended:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                body = await answer.read()
            watch.dismiss()
            await send({"type": "http.response.body", "body": body, "more_body": False})
        except asyncio.CancelledError:
            if not watch.left:
                watch.stop()
                raise
        except BaseException:
            watch.stop()
            raise
        finally:
            if answer is not None:
                answer.close()

    def _start(self, request: InferenceRequest, answer: Answer, identity: Headers) -> Message:
        overhead_s = answer.sent_s - request.arrival_s + self._clock() - answer.answered_s
        headers = [
            (b"content-type", answer.content_type),
            *identity,
            (b"x-proserve-class", request.terms.priority_class.encode("latin-1", "replace")),
            (b"x-proserve-engine", answer.engine.encode("latin-1", "replace")),
            (b"x-proserve-overhead-ms", b"%.3f" % (overhead_s * 1e3)),
            *request.quota_headers(),
        ]
        if answer.streams:
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        else:
            headers.append((b"content-length", b"%d" % len(answer.first)))
        return {"type": "http.response.start", "status": answer.status, "headers": headers}

    async def _models(self, scope: Scope, headers: dict[bytes, bytes], identity: Headers, send: Send) -> None:
        """`GET /v1/models` and `GET /v1/models/NAME`: what this key may use, from the configuration."""
        path: str = scope["path"]
        if path != MODELS and not path.startswith(f"{MODELS}/"):
            raise self._counted(_unknown_route(scope))
        if scope["method"] != "GET":
            raise self._counted(_method_not_allowed(scope, "GET"))
        grant = self._intake.authenticate(headers.get(b"authorization"))
        if path == MODELS:
            listed = [_model(name) for name in self._intake.catalog.models(grant)]
            found: dict[str, Any] = {"object": "list", "data": listed}
        else:
            try:
                found = _model(self._intake.catalog.pool(path[len(MODELS) + 1 :], grant).model)
            except ApiError as error:
                raise self._counted(error, grant) from None
        await _send_whole(200, msgspec.json.encode(found), identity, send)

    def _counted(self, error: ApiError, grant: TenantGrant | None = None) -> ApiError:
        self._intake.refused(error, grant)
        return error


class _Watch:
    """Cancels the task that made it when the client leaves."""

    __slots__ = ("_receive", "_task", "_watcher", "left")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[Any] | None = _current_task()
        self.left = False
        self._watcher = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self.left = True
            self._task.cancel()

    def dismiss(self) -> None:
        """The last of the answer is being sent: leaving changes nothing any more. The watcher ends by itself, because
        servers report the end of the response as a disconnect; cancelling it would cost more."""
        self._task = None

    def stop(self) -> None:
        """There will be no answer to watch over."""
        self._task = None
        self._watcher.cancel()


class _Alarm:
    """Cancels the task that made it after a time."""

    __slots__ = ("_task", "_timer", "rang")

    def __init__(self, after_s: float) -> None:
        self._task = _current_task()
        self._timer = asyncio.get_running_loop().call_later(after_s, self._ring)
        self.rang = False

    def _ring(self) -> None:
        self.rang = True
        self._task.cancel()

    def stop(self) -> None:
        self._timer.cancel()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a request is served in a task")
    return task


def _control(headers: dict[bytes, bytes]) -> dict[str, str]:
    """The headers that choose class and targets; mostly none."""
    if _CONTROL.isdisjoint(headers):
        return {}
    return {name.decode(): headers[name].decode("latin-1") for name in headers.keys() & _CONTROL}


def _trace(headers: dict[bytes, bytes]) -> TraceContext | None:
    traceparent = headers.get(b"traceparent")
    return None if traceparent is None else trace_context(traceparent, headers.get(b"tracestate"))


def _identity(request_id: str, headers: dict[bytes, bytes]) -> Headers:
    """Headers by which client and operator name the request; a client's own id is echoed, never used."""
    own = request_id.encode()
    theirs = headers.get(b"x-request-id")
    if theirs is None or _PRINTABLE.fullmatch(theirs) is None:
        return [(b"x-proserve-request-id", own)]
    return [(b"x-proserve-request-id", own), (b"x-request-id", theirs)]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "proserve"}


async def _send_whole(status: int, body: bytes, headers: Headers, send: Send) -> None:
    start = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_error(error: ApiError, identity: Headers, send: Send) -> None:
    headers = [*identity, *error.headers]
    if (retry_after := error.retry_after_header) is not None:
        headers.append((b"retry-after", retry_after))
    if error.status == 408:
        # The rest of the body may never come. (After 413 it is read and thrown away: a client that is cut while it
        # sends never sees the answer.)
        headers.append((b"connection", b"close"))
    await _send_whole(error.status, error.body(), headers, send)


def _unknown_route(scope: Scope) -> ApiError:
    path: str = scope["path"]
    if path == RESPONSES or path.startswith(f"{RESPONSES}/"):
        message = "the Responses API is not served here: use POST /v1/chat/completions"
    else:
        served = ", ".join(f"POST {route}" for route in ROUTES)
        message = f"unknown request URL: {scope['method']} {path[:200]}; served are {served} and GET {MODELS}"
    return ApiError(status=404, code="unknown_url", error_type="invalid_request_error", message=message)


def _method_not_allowed(scope: Scope, allowed: str) -> ApiError:
    return ApiError(
        status=405,
        code="method_not_allowed",
        error_type="invalid_request_error",
        message=f"{scope['path']} does not take {scope['method']}: use {allowed}",
    )


def _no_upgrade(asked: bytes) -> ApiError:
    """HTTP parsers end a request that asks for another protocol with its headers, so the body of Java's `HttpClient`,
    which asks for h2c unless told otherwise, is lost."""
    return ApiError(
        status=400,
        code="upgrade_not_supported",
        error_type="invalid_request_error",
        message=f"the request asks for an upgrade to {asked[:40].decode('latin-1')}: this port speaks HTTP/1.1 only, "
        "set the client to HTTP/1.1",
    )


def _too_large(limit: int) -> ApiError:
    return ApiError(
        status=413,
        code="request_too_large",
        error_type="invalid_request_error",
        message=f"the request body is larger than {limit} bytes: send less",
    )


def _too_slow(body_s: float) -> ApiError:
    return ApiError(
        status=408,
        code="request_timeout",
        error_type="invalid_request_error",
        message=f"the request body did not arrive within {body_s:g} s",
    )
