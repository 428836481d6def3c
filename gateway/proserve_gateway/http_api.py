"""The data path over HTTP: OpenAI's routes, on the server of the data port (`http_request.HttpHandler`)."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from proserve_gateway.answer import Answer
from proserve_gateway.catalog import TenantGrant
from proserve_gateway.catalog_terms import CONTROL_HEADERS
from proserve_gateway.dispatch import Dispatcher
from proserve_gateway.errors import ApiError
from proserve_gateway.http_request import BodyTooLargeError, BodyTooSlowError, HttpRequest
from proserve_gateway.inference_request import InferenceRequest
from proserve_gateway.intake import Intake, new_request_id
from proserve_gateway.request_body import BodyKind
from proserve_gateway.trace_context import TraceContext, trace_context

Headers = list[tuple[bytes, bytes]]

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
_JSON = (b"content-type", b"application/json")
_PRINTABLE = re.compile(rb"[\x21-\x7e]{1,128}")


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may take."""

    body_bytes: int = 4 * 2**20
    body_s: float = 60.0
    """To receive the whole body."""


class HttpApi:
    """Handler of the data port."""

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

    async def __call__(self, request: HttpRequest) -> None:
        arrival_s = self._clock()
        request_id = new_request_id()
        headers = request.headers
        identity = _identity(request_id, headers)
        try:
            kind = ROUTES.get(request.path)
            if kind is None:
                self._models(request, identity)
                return
            if request.method != b"POST":
                raise self._counted(_method_not_allowed(request, "POST"))
            grant = self._intake.authenticate(headers.get(b"authorization"))
            accepted = self._intake.accept(
                grant,
                request_id=request_id,
                arrival_s=arrival_s,
                control=_control(headers),
                kind=kind,
                path=request.path,
                body=await self._body(request, grant),
                trace=_trace(headers),
            )
            await self._answer(accepted, identity, request)
        except ApiError as error:
            _send_error(error, identity, request)

    def refused(self, error: ApiError) -> None:
        """Count what was no proper request (`HttpHandler`)."""
        self._intake.refused(error)

    async def _body(self, request: HttpRequest, grant: TenantGrant) -> bytes:
        limits = self._limits
        try:
            body = await request.body(most_bytes=limits.body_bytes, most_s=limits.body_s)
        except BodyTooLargeError:
            raise self._counted(_too_large(limits.body_bytes), grant) from None
        except BodyTooSlowError:
            raise self._counted(_too_slow(limits.body_s), grant) from None
        except ApiError as error:
            raise self._counted(error, grant) from None
        if not body and b"upgrade" in request.headers:
            raise self._counted(_no_upgrade(request.headers[b"upgrade"]), grant)
        return body

    async def _answer(self, accepted: InferenceRequest, identity: Headers, request: HttpRequest) -> None:
        """Pass the engine's answer on; the client's leaving cancels whatever is awaited, the engine's work included."""
        answer = await self._dispatcher.answer(accepted)
        try:
            headers = self._headers(accepted, answer, identity)
            if not answer.streams:
                request.reply(answer.status, headers, answer.first)
                return
            request.start(answer.status, headers, answer.first)
            while not answer.ended:
                await request.drained()
                await answer.pass_on(request.write)
            request.end()
        finally:
            answer.close()

    def _headers(self, request: InferenceRequest, answer: Answer, identity: Headers) -> Headers:
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
        return headers

    def _models(self, request: HttpRequest, identity: Headers) -> None:
        """`GET /v1/models` and `GET /v1/models/NAME`: what this key may use, from the configuration."""
        path = request.path
        if path != MODELS and not path.startswith(f"{MODELS}/"):
            raise self._counted(_unknown_route(request))
        if request.method != b"GET":
            raise self._counted(_method_not_allowed(request, "GET"))
        grant = self._intake.authenticate(request.headers.get(b"authorization"))
        if path == MODELS:
            listed = [_model(name) for name in self._intake.catalog.models(grant)]
            found: dict[str, Any] = {"object": "list", "data": listed}
        else:
            try:
                found = _model(self._intake.catalog.pool(path[len(MODELS) + 1 :], grant).model)
            except ApiError as error:
                raise self._counted(error, grant) from None
        request.reply(200, [_JSON, *identity], msgspec.json.encode(found))

    def _counted(self, error: ApiError, grant: TenantGrant | None = None) -> ApiError:
        self._intake.refused(error, grant)
        return error


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


def _send_error(error: ApiError, identity: Headers, request: HttpRequest) -> None:
    headers = [_JSON, *identity, *error.headers]
    if (retry_after := error.retry_after_header) is not None:
        headers.append((b"retry-after", retry_after))
    if error.status == 408:
        # The rest of the body may never come. (After 413 it is read and thrown away: a client that is cut while it
        # sends never sees the answer.)
        request.keep_alive = False
    request.reply(error.status, headers, error.body())


def _unknown_route(request: HttpRequest) -> ApiError:
    path = request.path
    if path == RESPONSES or path.startswith(f"{RESPONSES}/"):
        message = "the Responses API is not served here: use POST /v1/chat/completions"
    else:
        served = ", ".join(f"POST {route}" for route in ROUTES)
        message = f"unknown request URL: {_method(request)} {path[:200]}; served are {served} and GET {MODELS}"
    return ApiError(status=404, code="unknown_url", error_type="invalid_request_error", message=message)


def _method(request: HttpRequest) -> str:
    return request.method.decode("latin-1")


def _method_not_allowed(request: HttpRequest, allowed: str) -> ApiError:
    return ApiError(
        status=405,
        code="method_not_allowed",
        error_type="invalid_request_error",
        message=f"{request.path} does not take {_method(request)}: use {allowed}",
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
