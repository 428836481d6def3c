"""What is wrong with a request as HTTP, before anybody looks at what it asks for."""

from proserve_gateway.errors import ApiError
from proserve_gateway.http.request import HttpRequest
from proserve_gateway.http.routes import MODELS, RESPONSES, ROUTES


def unknown_route(request: HttpRequest) -> ApiError:
    path = request.path
    if path.startswith(f"{RESPONSES}/"):
        message = f"no responses are kept here: there is only POST {RESPONSES}, with the whole conversation in `input`"
    else:
        served = ", ".join(f"POST {route}" for route in ROUTES)
        message = f"unknown request URL: {_method(request)} {path[:200]}; served are {served} and GET {MODELS}"
    return ApiError(status=404, code="unknown_url", error_type="invalid_request_error", message=message)


def _method(request: HttpRequest) -> str:
    return request.method.decode("latin-1")


def method_not_allowed(request: HttpRequest, allowed: str) -> ApiError:
    error = ApiError(
        status=405,
        code="method_not_allowed",
        error_type="invalid_request_error",
        message=f"{request.path} does not take {_method(request)}: use {allowed}",
    )
    error.headers = ((b"allow", allowed.encode()),)
    return error


def no_upgrade(asked: bytes) -> ApiError:
    """HTTP parsers end a request that asks for another protocol with its headers, so the body of Java's `HttpClient`,
    which asks for h2c unless told otherwise, is lost."""
    return ApiError(
        status=400,
        code="upgrade_not_supported",
        error_type="invalid_request_error",
        message=f"the request asks for an upgrade to {asked[:40].decode('latin-1')}: this port speaks HTTP/1.1 only, "
        "set the client to HTTP/1.1",
    )


def too_large(limit: int) -> ApiError:
    return ApiError(
        status=413,
        code="request_too_large",
        error_type="invalid_request_error",
        message=f"the request body is larger than {limit} bytes: send less",
    )


def too_slow(body_s: float) -> ApiError:
    return ApiError(
        status=408,
        code="request_timeout",
        error_type="invalid_request_error",
        message=f"the request body did not arrive within {body_s:g} s",
    )
