"""`proserve bench adversary` from the command line."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from proserve_cli.main import app
from proserve_lab.search import regret

CASE = {
    "policy": "fcfs",
    "best": "srpf",
    "regret": 0.1,
    "seeds": [1],
    "spec": {
        "calibration": "h100-llama-3.1-8b",
        "requests": 40,
        "load": 2.5,
        "cycles": 1,
        "on_share": 1,
        "gap_variation": 1,
        "kinds": [
            {
                "share": 1,
                "prompt_median": 2000,
                "prompt_sigma": 0.8,
                "output_median": 5,
                "output_sigma": 0,
                "correlation": 0,
            }
        ],
        "classes": [{"share": 1, "weight": 1, "ttft_s": 0.3, "tpot_s": 0.05}],
        "paired": False,
        "first_token_gain": 1,
        "kv_tokens": 460000,
        "max_sequences": 256,
    },
}


@pytest.fixture
def case(tmp_path: Path) -> Path:
    path = tmp_path / "queue.json"
    path.write_bytes(msgspec.json.encode(CASE))
    return path


def test_a_case_is_played_again(case: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "adversary", "--case", str(case), "--policy", "fcfs", "--json"])
    assert result.exit_code == 0, result.output
    (played,) = msgspec.json.decode(result.stdout)
    assert played["name"] == "queue"
    assert played["best"] in regret.OTHERS
    assert played["mean"] == pytest.approx(played["theirs"] - played["ours"])
    assert played["mean"] > 0.1


def test_the_table_names_workload_policy_and_target(case: Path) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["bench", "adversary", "--case", str(case), "--policy", "fcfs"]
    )
    assert result.exit_code == 0, result.output
    assert all(word in result.stdout for word in ("queue", "fcfs", "late_first_token", "Target: 0.005"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "best", "--rounds", "1"], "batching policy 'best' does not exist"),
        (["--case", "missing.json"], "missing.json: cannot read the case"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_what_can_not_be_played_is_a_usage_error(arguments: list[str], message: str) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["bench", "adversary", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_an_unknown_calibration_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(msgspec.json.encode({**CASE, "spec": {**CASE["spec"], "calibration": "abacus"}}))  # type: ignore[dict-item]
    result = CliRunner().invoke(app, ["bench", "adversary", "--case", str(path)])
    assert result.exit_code == 2
    assert "calibration 'abacus' does not exist" in result.output
