"""What engines' failures and refusals become for the client."""

import logging
from http import HTTPStatus

import msgspec

from proserve_gateway.errors import ApiError, engine_failure, internal_error
from proserve_gateway.relay.sse import SseError, decoded
from proserve_gateway.seeing.accounting import CLIENT_CLOSED
from proserve_gateway.upstream.exchange import FailureKind, UpstreamError

logger = logging.getLogger(__name__)

_EXCERPT = 500
_REGISTERED = frozenset(HTTPStatus)
_MOST_RETRY_AFTER_S = 86400.0
_TIMEOUTS = {
    FailureKind.CONNECT_TIMEOUT: "engine_connect_timeout",
    FailureKind.HEAD_TIMEOUT: "engine_header_timeout",
    FailureKind.IDLE_TIMEOUT: "engine_idle_timeout",
    FailureKind.TOTAL_TIMEOUT: "request_total_timeout",
}


class _EngineError(msgspec.Struct):
    """An engine's error, in OpenAI's shape or vLLM's older flat one; `code` may be a number."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class _Wrapped(msgspec.Struct):
    error: _EngineError


_wrapped = msgspec.json.Decoder(_Wrapped)
_flat = msgspec.json.Decoder(_EngineError)


def failed_request(engine: str, error: UpstreamError) -> ApiError:
    """The exchange failed before anything was given to the client."""
    if (code := _TIMEOUTS.get(error.kind)) is not None:
        return engine_failure(f"engine {engine}: {error}", status=504, code=code)
    if error.kind is FailureKind.STOPPED:
        return shutting_down()
    return engine_failure(f"engine {engine}: {error}; {_AGAIN}", status=502)


def shutting_down() -> ApiError:
    """This gateway ends before the request does."""
    return engine_failure(f"the gateway is shutting down; {_AGAIN}", status=503, code="gateway_shutting_down")


def deadline_passed(waits_s: float) -> ApiError:
    """The client's own deadline ended its call: for the record, as the client knows."""
    return ApiError(
        status=CLIENT_CLOSED,
        code="deadline_exceeded",
        error_type="requests",
        message=f"the call's deadline of {waits_s:.3g} s passed before its answer was complete",
    )


def failed_answer(engine: str, error: UpstreamError | SseError) -> ApiError:
    """The stream failed after it had begun."""
    if isinstance(error, UpstreamError):
        return failed_request(engine, error)
    failure = engine_failure(f"engine {engine}: {error}; {_AGAIN}")
    failure.plain = f"engine {engine}: {plain(error)}"
    return failure


def refusal(engine: str, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> ApiError:
    """The engine answered with a status other than 200.

    4xx is about the request and reaches the client as it is. Not 401 and 403: those are about our key for the engine.
    Proxies before an engine have statuses of their own, such as nginx's 494 and 499. What is not registered is 400 to
    whoever doesn't know it (RFC 9110, section 15), and so it is to our clients.
    """
    said = _read(body)
    if status in (401, 403):
        return engine_failure(
            f"engine {engine} refused the gateway's own key (HTTP {status}): check the pool's API key for it",
            code="engine_credentials",
        )
    if 400 <= status < 500:
        refused = ApiError(
            status=status if status in _REGISTERED else 400,
            code=str(said.code) if said.code is not None else "engine_refused",
            error_type=said.type or "invalid_request_error",
            message=said.message,
            param=said.param,
            retry_after_s=_retry_after_s(headers),
        )
        refused.plain = f"engine {engine} answered HTTP {status}"
        return refused
    kept = status if status in (503, 504) else 502
    failure = engine_failure(f"engine {engine} answered HTTP {status}: {said.message}", status=kept)
    failure.retry_after_s = _retry_after_s(headers)
    failure.plain = f"engine {engine} answered HTTP {status}"
    return failure


def gateway_fault(request_id: str, error: Exception) -> ApiError:
    """A mistake of our own: the log says which, the client where to look."""
    logger.error("request %s: a fault of the gateway", request_id, exc_info=error, extra={"request_id": request_id})
    return internal_error(f"the gateway made a mistake with request {request_id}; its log says which")


def plain(error: Exception) -> str:
    """What is wrong, in our own words only: logs and the admin port hold nothing of prompts and answers."""
    return getattr(error, "plain", None) or str(error)


def _read(body: bytes) -> _EngineError:
    text = body.decode(errors="replace")
    try:
        return decoded(_wrapped, text, "its error").error
    except SseError:
        pass
    try:
        return decoded(_flat, text, "its error")
    except SseError:
        return _EngineError(message=text[:_EXCERPT] or "no explanation")


def _retry_after_s(headers: list[tuple[bytes, bytes]]) -> float | None:
    for name, value in headers:
        if name == b"retry-after" and value.isdigit():
            return min(float(value), _MOST_RETRY_AFTER_S)
    return None


_AGAIN = "try again"
