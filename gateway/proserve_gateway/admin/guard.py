"""The admin port's own credential: a key for everything but the probes, which kubelets and load balancers ask.

The key comes as a bearer token (Prometheus, our commands) or as the password of HTTP basic authentication, whatever
the user, because that is what a browser asks a person for.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from proserve_core.access_keys import bearer_key, opens
from proserve_gateway.security.renewals import KeyFile

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[None]]], Awaitable[None]]

OPEN = frozenset({"/healthz", "/livez", "/readyz"})
"""They tell that a gateway is there and which engines it misses."""

_REFUSAL = msgspec.json.encode(
    {
        "error": {
            "message": "the admin port asks for its key: send it as `Authorization: Bearer KEY`, or as the password of "
            "basic authentication",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_admin_key",
        }
    }
)


def guarded(app: App, keys: KeyFile | None) -> App:
    """`app` for those who know a key; `app` itself where there are no keys."""
    if keys is None:
        return app

    async def guard(scope: Scope, receive: Callable[..., Awaitable[Any]], send: Callable[..., Awaitable[None]]) -> None:
        if scope["path"] in OPEN or opens(keys.keys, _given(scope)):
            await app(scope, receive, send)
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(_REFUSAL)),
            (b"www-authenticate", b'Basic realm="ProServe admin", charset="UTF-8"'),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSAL})

    return guard


def _given(scope: Scope) -> bytes | None:
    authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, encoded = authorization.strip().partition(b" ")
    if scheme.lower() != b"basic":
        return bearer_key(authorization)
    try:
        _user, _, password = base64.b64decode(encoded, validate=True).partition(b":")
    except binascii.Error:
        return None
    return password
