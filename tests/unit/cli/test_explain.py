"""`proserve explain` against capacity servers and a gateway's status page in this process."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from engine_builders import decoding
from proserve_cli.addresses import free_port
from proserve_cli.main import app
from proserve_core.batching.explain import DecisionLog
from proserve_engine.capacity_board import CapacityBoard
from proserve_engine.capacity_server import CapacityApp, CapacityServer


def proserve(*args: str) -> Result:
    return CliRunner().invoke(app, list(args), prog_name="proserve")


@pytest.fixture
def engines() -> Iterator[list[str]]:
    """Two engines; the second one knows of request abc."""
    logs = DecisionLog(), DecisionLog()
    logs[1].lost_blocks(decoding("cmpl-abc-0-00000001"), now_s=1.25)
    servers = [CapacityServer(CapacityApp(CapacityBoard(), log), host="127.0.0.1", port=0) for log in logs]
    for server in servers:
        server.start()
    yield [f"127.0.0.1:{server.port}" for server in servers]
    for server in servers:
        server.stop()


def test_decisions_are_printed_with_the_engine_and_the_requests_age(engines: list[str]) -> None:
    result = proserve("explain", "abc", "--engine", engines[0], "--engine", engines[1])
    assert result.exit_code == 0
    head, line = result.stdout.splitlines()
    assert head == f"cmpl-abc-0-00000001 on {engines[1]}"
    assert line.split()[:2] == ["1.250", "s"]
    assert "loses its blocks" in line


def test_json_has_the_figures(engines: list[str]) -> None:
    result = proserve("explain", "abc", "--engine", engines[1], "--format", "json")
    [reply] = json.loads(result.stdout)
    assert reply["engine"] == engines[1]
    assert reply["requests"][0]["decisions"][0]["age_s"] == 1.25


def test_unknown_request_fails_with_what_each_engine_says(engines: list[str]) -> None:
    result = proserve("explain", "nobody", "--engine", engines[0], "--engine", engines[1])
    assert result.exit_code == 1
    assert f"{engines[0]}: nothing is known of request 'nobody': no decision was made here yet" in result.stderr
    assert "the latest are cmpl-abc-0-00000001" in result.stderr


class StatusPage(http.server.BaseHTTPRequestHandler):
    """A gateway's `/status` with the engines of the server."""

    def do_GET(self) -> None:
        engines = [{"name": name, "capacity_url": url} for name, url in self.server.engines.items()]  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"ready": True, "engines": engines}).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def gateway(engines: dict[str, str | None]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StatusPage) as server:
        server.engines = engines  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_engines_are_asked_for_at_the_gateway(engines: list[str]) -> None:
    with gateway({"pool-0": f"http://{engines[1]}", "plain": None}) as admin:
        result = proserve("explain", "abc", "--admin", admin)
    assert result.stdout.splitlines()[0] == "cmpl-abc-0-00000001 on pool-0"


def test_engines_without_capacity_servers_cannot_explain() -> None:
    with gateway({"plain": None}) as admin:
        result = proserve("explain", "abc", "--admin", admin)
    assert result.exit_code == 2
    assert "none of the gateway's 1 engines has a capacity server" in result.stderr


def test_engine_that_does_not_answer_and_gateway_that_does_not_exist_are_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    engine = proserve("explain", "abc", "--engine", address)
    gateway = proserve("explain", "abc", "--admin", address)
    assert (engine.exit_code, gateway.exit_code) == (1, 1)
    assert address in engine.stderr
    assert "name them with --engine HOST:PORT" in gateway.stderr


def test_bad_address_is_wrong_usage() -> None:
    assert proserve("explain", "abc", "--engine", "nowhere").exit_code == 2
