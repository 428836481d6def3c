"""The data path over HTTP: OpenAI's routes, on the server of the data port (`request.HttpHandler`)."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from proserve_gateway.configuration.catalog import TenantGrant
from proserve_gateway.configuration.catalog_terms import CONTROL_HEADERS
from proserve_gateway.errors import ApiError
from proserve_gateway.http.errors import method_not_allowed, no_upgrade, too_large, too_slow, unknown_route
from proserve_gateway.http.openapi import openapi_json
from proserve_gateway.http.request import BodyTooLargeError, BodyTooSlowError, HttpRequest
from proserve_gateway.http.routes import MODELS, OPENAPI, ROUTES
from proserve_gateway.requests.answer import Answer
from proserve_gateway.requests.body_budget import HeldBody
from proserve_gateway.requests.dispatch import Dispatcher
from proserve_gateway.requests.dispatch_errors import gateway_fault
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.requests.intake import Intake, new_request_id
from proserve_gateway.seeing.trace_context import TraceContext, trace_context

Headers = list[tuple[bytes, bytes]]

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
                self._others(request, identity)
                return
            if request.method != b"POST":
                raise self._counted(method_not_allowed(request, "POST"))
            grant = self._intake.authenticate(headers.get(b"authorization"))
            with self._intake.holds(grant.name, self._most_bytes(request)) as held:
                accepted = self._intake.accept(
                    grant,
                    request_id=request_id,
                    arrival_s=arrival_s,
                    control=_control(headers),
                    kind=kind,
                    path=request.path,
                    body=await self._body(request, grant, held),
                    trace=_trace(headers),
                )
                await self._answer(accepted, identity, request)
        except ApiError as error:
            # Frames that it passed may hold it, and hold the body.
            error.__traceback__ = None
            if not request.answered:
                _send_error(error, identity, request)
            # Else nobody can be told any more: the connection is cut.
        except Exception as error:  # noqa: BLE001 - logged, and the client is told
            fault = gateway_fault(request_id, error)
            self._intake.refused(fault)
            if not request.answered:
                _send_error(fault, identity, request)

    def refused(self, error: ApiError) -> None:
        """Count what was no proper request (`HttpHandler`)."""
        self._intake.refused(error)

    def _most_bytes(self, request: HttpRequest) -> int:
        """What the body may take while it comes."""
        announced, most = request.announced_bytes, self._limits.body_bytes
        return most if announced is None else min(announced, most)

    async def _body(self, request: HttpRequest, grant: TenantGrant, held: HeldBody) -> bytes:
        limits = self._limits
        try:
            body = await request.body(most_bytes=limits.body_bytes, most_s=limits.body_s)
        except BodyTooLargeError:
            raise self._counted(too_large(limits.body_bytes), grant) from None
        except BodyTooSlowError:
            raise self._counted(too_slow(limits.body_s), grant) from None
        except ApiError as error:
            raise self._counted(error, grant) from None
        held.shrink(len(body))
        if not body and b"upgrade" in request.headers:
            raise self._counted(no_upgrade(request.headers[b"upgrade"]), grant)
        return body

    async def _answer(self, accepted: InferenceRequest, identity: Headers, request: HttpRequest) -> None:
        """Pass the engine's answer on; the client's leaving cancels whatever is awaited, the engine's work included."""
        with await self._dispatcher.answer(accepted) as answer:
            headers = self._headers(accepted, answer, identity)
            if not answer.streams:
                request.reply(answer.status, headers, answer.first)
                return
            request.start(answer.status, headers, answer.first)
            while not answer.ended:
                await request.drained()
                await answer.pass_on(request.write)
            request.end()

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

    def _others(self, request: HttpRequest, identity: Headers) -> None:
        """What no engine is needed for."""
        if request.path != OPENAPI:
            self._models(request, identity)
            return
        if request.method != b"GET":
            raise self._counted(method_not_allowed(request, "GET"))
        request.reply(200, [_JSON, *identity], openapi_json())

    def _models(self, request: HttpRequest, identity: Headers) -> None:
        """`GET /v1/models` and `GET /v1/models/NAME`: what this key may use, from the configuration."""
        path = request.path
        if path != MODELS and not path.startswith(f"{MODELS}/"):
            raise self._counted(unknown_route(request))
        if request.method != b"GET":
            raise self._counted(method_not_allowed(request, "GET"))
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
