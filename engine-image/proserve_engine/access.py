"""Engines answer only who knows their key: the gateway, and whoever looks after them.

vLLM's own `--api-key` leaves everything open that is not under `/v1`: tokenizing, metrics, and the routes that put an
engine to sleep or load adapters. This one leaves open what probes ask and nothing else, on both ports.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import msgspec

from proserve_core.access_keys import AccessKeysError, bearer_key, opens, parse_keys
from proserve_engine.look import Look

KEY_FILE = "PROSERVE_ENGINE_KEY_FILE"
"""Environment variable with the path of the file (format: core's `access_keys`)."""
OPEN = frozenset({"/health", "/healthz", "/readyz"})

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[None]]], Awaitable[None]]

logger = logging.getLogger(__name__)

_REFUSAL = msgspec.json.encode(
    {
        "error": {
            "message": "this engine answers only its gateway: send requests there, or its key as a bearer token",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_engine_key",
        }
    }
)


class EngineKeys:
    """The keys in a file, as they are now."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Raises:
            AccessKeysError: the file can't be used.
        """
        self._path = path
        self._keys = self._read()
        self._look = Look(clock)
        self._refused = ""

    def opens(self, given: bytes | None) -> bool:
        """Whether this key is among them."""
        if self._look.due():
            self._renew()
        return opens(self._keys, given)

    def _renew(self) -> None:
        try:
            self._keys, self._refused = self._read(), ""
        except AccessKeysError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                logger.error("the engine's keys stay as they were: %s", error)

    def _read(self) -> tuple[str, ...]:
        try:
            return parse_keys(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise AccessKeysError(
                f"{self._path}: cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from error
        except AccessKeysError as error:
            raise AccessKeysError(f"{self._path}: {error}") from error


class EngineAccess:
    """ASGI application for those who know a key; everybody is let in where there is no key file."""

    def __init__(self, app: App, keys: EngineKeys | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(
        self, scope: Scope, receive: Callable[..., Awaitable[Any]], send: Callable[..., Awaitable[None]]
    ) -> None:
        kind = scope["type"]
        if self._keys is None or kind == "lifespan" or (kind == "http" and scope["path"] in OPEN):
            await self._app(scope, receive, send)
            return
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if self._keys.opens(bearer_key(authorization)):
            await self._app(scope, receive, send)
        elif kind == "http":
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_REFUSAL))]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})
        else:
            await send({"type": "websocket.close", "code": 1008})


class EngineKeyMiddleware(EngineAccess):
    """For `vllm serve --middleware`: takes the file from the environment."""

    def __init__(self, app: App) -> None:
        super().__init__(app, keys_from(os.environ.get(KEY_FILE)))


def keys_from(path: str | None) -> EngineKeys | None:
    """The keys in a file; None without one.

    Raises:
        AccessKeysError: the file can't be used.
    """
    return EngineKeys(Path(path)) if path else None
