"""`proserve engine drain`: until nothing runs any more, at most the grace period."""

import itertools
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from proserve_engine import drain as drain_module
from proserve_engine.drain import DrainError, drain
from proserve_lab.free_port import free_port
from tls_files import server_context


@contextmanager
def engine(*running: int, keys: list[str | None], tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """An engine that says, one look after the other, how many requests run; the last number stays. `keys` are those
    that it was sent."""
    asked: list[str] = []
    numbers = itertools.chain(running, itertools.repeat(running[-1]))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._answer({"draining": True})

        def do_GET(self) -> None:
            self._answer({"running": next(numbers), "waiting": 0})

        def _answer(self, body: object) -> None:
            asked.append(f"{self.command} {self.path}")
            keys.append(self.headers["Authorization"])
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing: pytest shows what matters."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "LOOK_S", 0.01)
    monkeypatch.setattr(drain_module, "UNSEEN_S", 0.05)


def test_engine_is_told_first_and_left_when_nothing_runs() -> None:
    with engine(3, 2, 0, keys=[]) as (root, asked):
        assert drain(root, grace_s=60.0) == 0
    assert asked[0] == "POST /drain"
    assert set(asked[1:]) == {"GET /capacity"}
    assert len(asked) >= 4


def test_what_is_left_after_the_grace_period_is_left_to_the_gateway() -> None:
    with engine(2, keys=[]) as (root, _):
        assert drain(root, grace_s=0.1) == 2


@pytest.mark.parametrize("key", [None, "a-key-of-the-engine"])
def test_engine_that_asks_for_its_key_gets_it(key: str | None) -> None:
    keys: list[str | None] = []
    with engine(0, keys=keys) as (root, _):
        drain(root, grace_s=60.0, key=key)
    assert set(keys) == {None if key is None else f"Bearer {key}"}


def test_engine_with_a_certificate_that_is_for_its_gateways_is_drained_all_the_same() -> None:
    with engine(1, 0, keys=[], tls=server_context("first")) as (root, asked):
        assert drain(root, grace_s=60.0) == 0
    assert asked[0] == "POST /drain"


def test_engine_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(DrainError, match="does not answer"):
        drain(f"http://127.0.0.1:{free_port()}", grace_s=1.0)
