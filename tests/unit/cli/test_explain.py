"""`proserve explain` against capacity servers and a gateway's status page in this process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from admin_page import admin_page
from engine_builders import decoding, service_terms
from proserve_cli.main import app
from proserve_core.batching.explain import DecisionLog
from proserve_core.batching.explain.reply import ExplainReply, RequestDecisions
from proserve_core.request_record import Attempt, RequestRecord
from proserve_engine.access import EngineAccess, EngineKeys
from proserve_engine.capacity_board import CapacityBoard
from proserve_engine.capacity_server import CapacityApp, CapacityServer
from proserve_lab.free_port import free_port


def proserve(*args: str) -> Result:
    return CliRunner().invoke(app, list(args), prog_name="proserve")


def lost_blocks() -> DecisionLog:
    """Of an engine that knows of request abc."""
    log = DecisionLog()
    log.lost_blocks(decoding("cmpl-abc-0-00000001"), now_s=1.25)
    return log


def engine_decisions(name: str) -> dict[str, object]:
    """What a gateway passes on of such an engine."""
    found = lost_blocks().decisions("abc")
    reply = ExplainReply([RequestDecisions(id=i, decisions=decisions) for i, decisions in found.items()])
    return {f"/engine-decisions/abc?engine={name}": reply}


@pytest.fixture
def engines() -> Iterator[list[str]]:
    """Two engines; the second one knows of request abc."""
    logs = DecisionLog(), lost_blocks()
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


def test_engine_that_asks_for_its_key_gets_it(tmp_path: Path) -> None:
    keys = tmp_path / "engine.key"
    keys.write_text("0123456789abcdef")
    app = EngineAccess(CapacityApp(CapacityBoard(), lost_blocks()), EngineKeys(keys))
    server = CapacityServer(app, host="127.0.0.1", port=0)
    server.start()
    try:
        asked = ("explain", "abc", "--engine", f"127.0.0.1:{server.port}")
        refused, told = proserve(*asked), proserve(*asked, "--engine-key", "0123456789abcdef")
    finally:
        server.stop()
    assert "this engine answers only its gateway" in refused.stderr
    assert told.stdout.startswith("cmpl-abc-0-00000001 on ")


def test_json_has_the_figures(engines: list[str]) -> None:
    result = proserve("explain", "abc", "--engine", engines[1], "--format", "json")
    body = json.loads(result.stdout)
    [reply] = body["engines"]
    assert body["request"] is None
    assert reply["engine"] == engines[1]
    assert reply["requests"][0]["decisions"][0]["age_s"] == 1.25


def test_unknown_request_fails_with_what_each_engine_says(engines: list[str]) -> None:
    result = proserve("explain", "nobody", "--engine", engines[0], "--engine", engines[1])
    assert result.exit_code == 1
    assert f"{engines[0]}: nothing is known of request 'nobody': no decision was made here yet" in result.stderr
    assert "the latest are cmpl-abc-0-00000001" in result.stderr


def status(engines: dict[str, str | None]) -> dict[str, object]:
    return {"ready": True, "engines": [{"name": name, "capacity_url": url} for name, url in engines.items()]}


RECORD = RequestRecord(
    id="abc",
    arrived_unix_s=1_700_000_000.0,
    tenant="acme",
    model="tiny",
    pool="pool",
    terms=service_terms(),
    expected_prompt_tokens=10,
    attempts=(Attempt(engine="pool-1", reason="least predicted drain", sent_s=0.001),),
)


def test_gateway_tells_the_way_and_only_the_engines_that_had_the_request_are_asked() -> None:
    known: dict[str, str | None] = {"pool-0": "http://10.0.0.1:9400", "pool-1": "http://10.0.0.2:9400"}
    pages = {"/decisions/abc": RECORD, "/status": status(known)}
    with admin_page(pages | engine_decisions("pool-0") | engine_decisions("pool-1")) as page:
        result = proserve("explain", "abc", "--admin", page.address)
        data = json.loads(proserve("explain", "abc", "--admin", page.address, "--format", "json").stdout)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("request abc of tenant acme, class ")
    assert "sent to pool-1: least predicted drain" in result.stdout
    assert "cmpl-abc-0-00000001 on pool-1" in lines
    assert data["request"]["attempts"][0]["engine"] == "pool-1"
    assert [each["engine"] for each in data["engines"]] == ["pool-1"]


def test_gateway_alone_explains_where_engines_cannot() -> None:
    with admin_page({"/decisions/abc": RECORD, "/status": status({"pool-1": None})}) as page:
        result = proserve("explain", "abc", "--admin", page.address)
    assert result.exit_code == 0
    assert "least predicted drain" in result.stdout


def test_engines_are_asked_through_the_gateway() -> None:
    pages = {"/status": status({"pool/0 x": "http://10.0.0.1:9400", "plain": None})}
    with admin_page(pages | engine_decisions("pool%2F0%20x")) as page:
        result = proserve("explain", "abc", "--admin", page.address)
    assert result.stdout.splitlines()[0] == "cmpl-abc-0-00000001 on pool/0 x"


def test_engines_without_capacity_servers_cannot_explain() -> None:
    with admin_page({"/status": status({"plain": None})}) as page:
        result = proserve("explain", "abc", "--admin", page.address)
    assert result.exit_code == 1
    assert "none of the gateway's 1 engines has a capacity server" in result.stderr


def test_engine_that_does_not_answer_and_gateway_that_does_not_exist_are_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    engine = proserve("explain", "abc", "--engine", address)
    gateway = proserve("explain", "abc", "--admin", address)
    assert (engine.exit_code, gateway.exit_code) == (1, 1)
    assert address in engine.stderr
    assert "name engines with --engine HOST:PORT" in gateway.stderr


def test_bad_address_is_wrong_usage() -> None:
    assert proserve("explain", "abc", "--engine", "nowhere").exit_code == 2
