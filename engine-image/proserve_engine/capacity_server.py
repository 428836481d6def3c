"""What an engine says about itself over HTTP: `/capacity`, `/drain`, `/explain/ID`, `/healthz`, `/readyz`, `/metrics`.

A bare ASGI application, served by uvicorn in a thread of the engine process (`CapacityServer`) or mounted by whoever
already runs an event loop (the emulator). It never touches the engine: all it reads is the board, the log of decisions
and the metrics.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec
import uvicorn

from proserve_core.batching.explain import DecisionLog
from proserve_core.batching.explain.decision_log import KEPT_REQUESTS
from proserve_core.batching.explain.reply import ExplainReply, RequestDecisions

MAX_WAIT_MS = 30_000
MAX_WAITERS = 64
"""Readers held at a time; further ones get the present snapshot at once, as if they had not asked to wait."""

_EXPLAIN = "/explain/"
_READ = ("/capacity", "/healthz", "/readyz")
_JSON = b"application/json"
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"

App = Callable[..., Awaitable[None]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class CapacityServerError(RuntimeError):
    """The server cannot listen where it was told to."""


class Board(Protocol):
    """Where the latest snapshot is (`capacity_board`, or an engine that can make one at any time)."""

    @property
    def draining(self) -> bool: ...

    @property
    def waiting_readers(self) -> int: ...

    def drain(self) -> None: ...

    def read(self) -> bytes | None: ...

    async def changed(self, after: int, wait_s: float) -> None: ...


class CapacityApp:
    """ASGI application over a board.

    Args:
        metrics: renders Prometheus text; None where nobody measures.
        unplanned: when the engine schedules without a plan, so that nothing is decided here; None: never.
    """

    def __init__(
        self,
        board: Board,
        decisions: DecisionLog,
        metrics: Callable[[], bytes] | None = None,
        *,
        unplanned: str | None = None,
    ) -> None:
        self._board = board
        self._decisions = decisions
        self._metrics = metrics
        self._unplanned = unplanned

    def serves(self, path: str) -> bool:
        """Whether `path` is one of this application's."""
        return self._allowed(path) is not None

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the capacity server speaks HTTP only, not {scope['type']}")
        status, content_type, body = await self._answer(scope["method"], scope["path"], scope["query_string"])
        headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
        if status == 405:
            headers.append((b"allow", b"POST" if scope["path"] == "/drain" else b"GET"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _allowed(self, path: str) -> str | None:
        """Method of a path that exists."""
        if path.startswith(_EXPLAIN) or path in _READ or (path == "/metrics" and self._metrics):
            return "GET"
        return "POST" if path == "/drain" else None

    async def _answer(self, method: str, path: str, query: bytes) -> tuple[int, bytes, bytes]:
        allowed = self._allowed(path)
        if allowed is None:
            return (
                404,
                _JSON,
                _error(f"no such path: {path}; there are /drain, /explain/ID, /metrics, {', '.join(_READ)}"),
            )
        if method != allowed and not (method == "HEAD" and allowed == "GET"):
            return 405, _JSON, _error(f"{path} takes {allowed}, not {method}")
        if path == "/drain":
            self._board.drain()
            return 200, _JSON, b'{"draining":true}'
        if path == "/healthz":
            return 200, _JSON, b'{"status":"draining"}' if self._board.draining else b'{"status":"ok"}'
        if path == "/readyz":
            # Capacity is served: what a probe may ask that knows no key.
            return (200, _JSON, b'{"status":"ok"}') if self._board.read() is not None else _NO_SNAPSHOT
        if path == "/metrics":
            return 200, _TEXT, self._metrics() if self._metrics is not None else b""
        if path.startswith(_EXPLAIN):
            return self._explain(path.removeprefix(_EXPLAIN))
        return await self._capacity(query)

    def _explain(self, request_id: str) -> tuple[int, bytes, bytes]:
        found = self._decisions.decisions(request_id)
        if not found:
            return 404, _JSON, _error(self._unknown(request_id))
        reply = ExplainReply([RequestDecisions(id=i, decisions=decisions) for i, decisions in found.items()])
        return 200, _JSON, msgspec.json.encode(reply)

    def _unknown(self, request_id: str) -> str:
        kept = len(self._decisions)
        if not kept:
            unplanned = f"; {self._unplanned}" if self._unplanned else ""
            return f"nothing is known of request {request_id!r}: no decision was made here yet{unplanned}"
        return (
            f"nothing is known of request {request_id!r}: the decisions of the last {kept} requests are kept (at most "
            f"{KEPT_REQUESTS}), the latest are {', '.join(self._decisions.latest_ids(3))}"
        )

    async def _capacity(self, query: bytes) -> tuple[int, bytes, bytes]:
        values = parse_qs(query.decode("latin-1"), keep_blank_values=True)
        numbers: dict[str, int] = {}
        for name in ("after", "wait"):
            text = values.get(name, ["0"])[-1]
            if not text.isdecimal() or len(text) > 18:
                return 400, _JSON, _error(f"{name}: expected a whole number that is not negative, got {text!r}")
            numbers[name] = int(text)
        if "wait" in values and "after" in values and self._board.waiting_readers < MAX_WAITERS:
            await self._board.changed(numbers["after"], min(numbers["wait"], MAX_WAIT_MS) / 1e3)
        body = self._board.read()
        if body is None:
            return _NO_SNAPSHOT
        return 200, _JSON, body


class CapacityServer:
    """Serves a `CapacityApp`, or what is around it, from a thread of its own.

    Raises:
        CapacityServerError: the address is in use or not ours.
    """

    def __init__(self, app: App, *, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: what it serves with; None: plain text."""
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=False,
            ws="none",
            timeout_keep_alive=60,
            timeout_graceful_shutdown=1,
        )
        config.load()
        # uvicorn makes contexts of its own from files that it reads once.
        config.ssl = tls
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="proserve-capacity", daemon=True)

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening. Safe to call more than once."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=3)
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        raise CapacityServerError(
            f"cannot serve /capacity on {host}:{port}: {error.strerror or error}; choose another with "
            "PROSERVE_CAPACITY_HOST and PROSERVE_CAPACITY_PORT"
        ) from error
    listener.setblocking(False)
    return listener


def _error(message: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error"}})


_NO_SNAPSHOT = 503, _JSON, _error("the engine has not published a snapshot yet: try again")
