"""How a call failed, read from the rich status: code, reason, when to try again, what is wrong with which field."""

from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class InferenceError(Exception):
    """A call did not end with its whole answer."""

    def __init__(
        self,
        *,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        field: str = "",
        retry_after_s: float | None = None,
        quota: str = "",
        usage: dict[str, int] | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        """Stable, for programs: `INVALID_API_KEY`, `NO_ENGINE_AVAILABLE`, ... (docs/grpc.md)."""
        self.field = field
        """What is wrong in the request."""
        self.retry_after_s = retry_after_s
        """When another try makes sense; None: not known, or never."""
        self.quota = quota
        """Whose quota is used up."""
        self.usage = usage or {}
        """Tokens of a stream that broke."""
        self.request_id = request_id
        """Names the request in the gateway's logs and `proserve explain`."""


def inference_error(error: grpc.RpcError) -> InferenceError:
    """What a failed call says; `error` is one of a call, blocking or not."""
    found = InferenceError(code=error.code(), message=error.details() or "")
    # The types of metadata and of errors differ between grpc's two interfaces.
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == "x-proserve-request-id":
            found.request_id = value
    call: Any = error
    status = rpc_status.from_call(call)
    for detail in status.details if status is not None else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry, quota = error_details_pb2.RetryInfo(), error_details_pb2.QuotaFailure()
        if detail.Unpack(info):
            found.reason = info.reason
            found.usage = {name: int(tokens) for name, tokens in info.metadata.items() if tokens.isdecimal()}
        elif detail.Unpack(bad) and bad.field_violations:
            found.field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            found.retry_after_s = retry.retry_delay.ToMilliseconds() / 1e3
        elif detail.Unpack(quota) and quota.violations:
            found.quota = quota.violations[0].subject
    return found
