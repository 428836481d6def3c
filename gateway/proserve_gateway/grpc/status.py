"""An `ApiError` as rich gRPC status: code, message, and google.rpc details that programs can read."""

import math
from typing import NoReturn

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from proserve_gateway.errors import ApiError

DOMAIN = "proserve.dev"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE = 1000
"""Status travels in trailers, which clients limit to 8 KiB in all."""


async def abort(context: grpc.aio.ServicerContext[bytes, Message], error: ApiError, request_id: str) -> NoReturn:
    """End the call with the error; `request_id` goes along, so that it can be found in logs."""
    code = grpc.StatusCode[error.grpc_code]
    message = error.message if len(error.message) <= MAX_MESSAGE else error.message[: MAX_MESSAGE - 1] + "…"
    status = status_pb2.Status(
        code=code.value[0], message=message, details=[_packed(detail) for detail in _details(error, message)]
    )
    await context.abort(
        code,
        message,
        trailing_metadata=((DETAILS_KEY, status.SerializeToString()), ("x-proserve-request-id", request_id)),
    )


def _details(error: ApiError, message: str) -> list[Message]:
    usage = {name: str(tokens) for name, tokens in (error.usage or {}).items()}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.code.upper(), domain=DOMAIN, metadata=usage)]
    if error.param is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.param, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.exhausted is not None:
        exhausted = error_details_pb2.QuotaFailure.Violation(subject=error.exhausted, description=message)
        details.append(error_details_pb2.QuotaFailure(violations=[exhausted]))
    if error.retry_after_s is not None:
        fraction, seconds = math.modf(error.retry_after_s)
        delay = duration_pb2.Duration(seconds=int(seconds), nanos=int(fraction * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
