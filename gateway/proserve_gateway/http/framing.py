"""Heads that two proxies could read differently: who forwards requests must never disagree with another about their
ends (request smuggling).

The parser (llhttp) refuses two lengths, a length beside chunks, line ends without CR, folded headers and spaces before
the colon; refused here are other transfer codings, chunks in HTTP/1.0, and a second `Host`, `Authorization` or length.
"""

from collections.abc import Mapping

from proserve_gateway.configuration.catalog_terms import CONTROL_HEADERS
from proserve_gateway.errors import ApiError

ONCE = frozenset(
    {b"authorization", b"content-length", b"content-type", b"host", b"transfer-encoding", b"upgrade"}
    | {name.encode() for name in CONTROL_HEADERS}
)
"""Headers that say whose a request is, what it asks for and where it ends: never twice."""


def fault_of(headers: Mapping[bytes, bytes], version: str) -> ApiError | None:
    """What is wrong with how the request says whom it is for and where it ends."""
    if version == "1.1":
        if b"host" not in headers:
            return _bad_request("the header host is missing: HTTP/1.1 asks for it")
    elif version != "1.0":
        return _bad_request(f"HTTP/{version} is not spoken here: send HTTP/1.1")
    coding = headers.get(b"transfer-encoding")
    if coding is not None:
        if version != "1.1":
            return _bad_request("chunks are HTTP/1.1: send a Content-Length")
        if coding.strip().lower() != b"chunked":
            return _bad_request("Transfer-Encoding: only chunked is understood")
    return None


def twice(name: bytes) -> ApiError:
    """A header of `ONCE` that was there already."""
    return _bad_request(f"the header {name.decode('latin-1')} is there twice: send it once")


def _bad_request(message: str) -> ApiError:
    return ApiError(status=400, code="invalid_http", error_type="invalid_request_error", message=message)
