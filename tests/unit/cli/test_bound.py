"""`proserve bound`: figures as JSON for scripts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proserve_cli.main import app

BASE = ["bound", "--calibration", "h100-llama-3.1-8b"]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    lines = [f"{number * 0.5},{2000 + 10 * number},{5 + number % 3}" for number in range(30)]
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    return path


def bound(*options: str) -> float:
    done = CliRunner().invoke(app, [*BASE, *options, "--format", "json"])
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)["tdg_bound"]
    assert isinstance(value, float)
    return value


def test_json_has_the_fields_of_the_contract(trace: Path) -> None:
    done = CliRunner().invoke(app, [*BASE, "--trace", str(trace), "--rate", "200", "--limit", "20", "--format", "json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert 0 < result["tdg_bound"] <= 1
    assert result["status"] == "optimal"
    assert result["requests"] == 20
    assert result["lengths"] == "known"


def test_options_reach_the_bound(trace: Path) -> None:
    overload = ["--trace", str(trace), "--rate", "200"]
    alone = bound(*overload)
    assert alone < 1
    assert bound(*overload, "--replicas", "2") > alone
    assert bound(*overload, "--limit", "10") > alone
    assert bound(*overload, "--seed", "7") != alone
    assert bound(*overload, "--lengths", "unknown") <= alone + 0.01


def test_table_says_the_bound(trace: Path) -> None:
    done = CliRunner().invoke(app, [*BASE, "--trace", str(trace)])
    assert done.exit_code == 0, done.output
    assert "TDG ratio at most 1.0000 (optimal)" in done.stdout
