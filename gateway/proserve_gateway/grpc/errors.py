"""What is wrong with a call, before anybody looks at what it asks for."""

from proserve_gateway.errors import ApiError, invalid_request


def no_message() -> ApiError:
    return invalid_request("the call ended without a message: send one GenerateRequest", code="invalid_message")


def twice(key: str) -> ApiError:
    return invalid_request(f"the metadata has {key} twice: send it once", param=key)


def message_too_slow(message_s: float) -> ApiError:
    return ApiError(
        status=408,
        code="request_timeout",
        error_type="invalid_request_error",
        message=f"the message did not arrive within {message_s:g} s of the call's headers",
    )
