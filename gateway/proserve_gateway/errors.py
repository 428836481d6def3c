"""What a client is told when its request fails: one exception for both protocols.

HTTP gets OpenAI's error object (`{"error": {"message", "type", "param", "code"}}`). Its clients retry 408, 409, 429 and
5xx on their own, so a request that can never work must not get one of these. gRPC gets the status code that belongs to
the HTTP status.
"""

import math
from collections.abc import Mapping

import msgspec

GRPC_CODES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    431: "INVALID_ARGUMENT",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Name of the `grpc.StatusCode` for an HTTP status; a name, so that the HTTP path does not import grpc."""


STARTING_RETRY_S = 2.0


class ApiError(Exception):
    """A request ends with this status and message. Raised anywhere between authentication and the last token."""

    def __init__(
        self,
        *,
        status: int,
        code: str,
        error_type: str,
        message: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        """Stable identifier that programs compare, such as `model_not_found`."""
        self.error_type = error_type
        self.message = message
        self.plain = message
        """The message without what an engine said, which may hold parts of the prompt: for logs."""
        self.param = param
        """The field of the request that is wrong, as a path: `messages`, `stream_options.include_usage`."""
        self.retry_after_s = retry_after_s
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        """Further headers of the HTTP answer."""
        self.exhausted: str | None = None
        """Whose quota is used up: subject of gRPC's QuotaFailure."""
        self.usage: dict[str, int] | None = None
        """Tokens that a stream had brought before it failed, as OpenAI's usage object."""

    @property
    def grpc_code(self) -> str:
        return GRPC_CODES.get(self.status, "INVALID_ARGUMENT" if self.status < 500 else "INTERNAL")

    @property
    def retry_after_header(self) -> bytes | None:
        """Whole seconds, at least 1, as RFC 9110 wants them."""
        if self.retry_after_s is None:
            return None
        return b"%d" % max(1, math.ceil(self.retry_after_s))

    def body(self) -> bytes:
        """OpenAI's error object as JSON, with the usage so far where there is one."""
        error = {"message": self.message, "type": self.error_type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error} if self.usage is None else {"error": error, "usage": self.usage})


def invalid_request(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """The client's request is wrong and stays wrong: 400."""
    return ApiError(status=400, code=code, error_type="invalid_request_error", message=message, param=param)


def engine_failure(message: str, *, status: int = 502, code: str = "engine_failure") -> ApiError:
    """An engine did not do its part; the request itself may be fine and is worth another try."""
    return ApiError(status=status, code=code, error_type="server_error", message=message)


def no_engine_available(message: str, *, retry_after_s: float) -> ApiError:
    """The pool has no engine that takes requests: 503, and one is expected then."""
    return ApiError(
        status=503,
        code="no_engine_available",
        error_type="server_error",
        message=message,
        retry_after_s=retry_after_s,
    )


def starting() -> ApiError:
    """The gateway has no configuration yet, so it can't tell whose a key is."""
    return ApiError(
        status=503,
        code="gateway_starting",
        error_type="server_error",
        message="the gateway has not read its configuration yet; try again",
        retry_after_s=STARTING_RETRY_S,
    )


def internal_error(message: str) -> ApiError:
    """A fault of the gateway; its log says more."""
    return ApiError(status=500, code="internal_error", error_type="server_error", message=message)


def client_stalled() -> ApiError:
    """The client took nothing of its answer for too long."""
    return ApiError(
        status=408,
        code="client_stalled",
        error_type="invalid_request_error",
        message="the answer was given up because the client took nothing of it for too long: read it as it comes",
    )
