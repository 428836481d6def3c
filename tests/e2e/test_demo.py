"""The demo itself, with a short trace."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def demo(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proserve_cli", "demo", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})},
    )  # fmt: skip


POLICIES = ["fcfs", "slide-batching", "recoverable-gain"]


def check(result: dict[str, Any], requests: int, policies: list[str] = POLICIES) -> None:
    """Every request was answered under every policy, and the books balance."""
    assert [run["policy"] for run in result["runs"]] == policies
    for run in result["runs"]:
        report = run["report"]
        assert report["errors"] == {}
        assert report["total"]["requests"] == requests
        assert set(report["classes"]) == {"interactive", "batch"}
        for each in report["classes"].values():
            assert each["gain"] + sum(each["lost"].values()) == pytest.approx(each["earnable_gain"])


def test_the_demo_on_emulated_engines_prints_its_result_as_json() -> None:
    finished = demo("--engine", "emulated", "--limit", "40", "--json")
    assert finished.returncode == 0, finished.stderr
    check(json.loads(finished.stdout), 40)


def test_the_demo_ends_with_the_tables_and_leaves_no_folder(tmp_path: Path) -> None:
    finished = demo(
        "--engine", "emulated", "--limit", "10", "--policies", "slide-batching",
        environment={"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "interactive requests earned" in finished.stdout
    assert "Where gain was lost" in finished.stdout
    assert "chosen: 10 requests" in finished.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trace", "/nowhere.csv"), "/nowhere.csv: cannot read the trace"),
        (("--policies", "luck"), "batching policy 'luck' does not exist"),
        (("--policies", ","), "--policies: expected at least one name"),
        (("--stock", "--policies", "fcfs"), "routing policy 'fcfs' does not exist"),
    ],
)
def test_wrong_usage_is_one_message(arguments: tuple[str, ...], message: str) -> None:
    finished = demo("--engine", "emulated", *arguments)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_demo_in_front_of_stock_engines_compares_what_the_gateway_does() -> None:
    policies = ["round-robin", "late-gain"]
    finished = demo("--stock", "--engine", "emulated", "--limit", "40", "--policies", ",".join(policies), "--json")
    assert finished.returncode == 0, finished.stderr
    check(json.loads(finished.stdout), 40, policies)


def heavy_class_comes_first(result: dict[str, Any]) -> bool:
    """Whether it waits less than the other with `late-gain`, and earns more of its gain than without. In order of
    arrival both wait alike. Within one run, what else the machine does is the same for both."""
    without, ordered = [run["report"]["classes"] for run in result["runs"]]
    earned, before = [each["interactive"]["gain"] / each["interactive"]["earnable_gain"] for each in (ordered, without)]
    return bool(ordered["interactive"]["ttft_p50_s"] < ordered["batch"]["ttft_p50_s"] and earned > before)


@pytest.mark.engine
def test_heavy_class_gains_more_in_front_of_stock_vllm_when_the_gateway_orders(engine_python: str) -> None:
    """vLLM with its own scheduler, asked for twice what it can do. Again, should other programs have left it so little
    while it was measured that twice as much is no overload."""
    policies = ["least-requests", "late-gain"]

    def result() -> dict[str, Any]:
        finished = demo(
            "--stock", "--engine", "vllm", "--limit", "400", "--policies", ",".join(policies), "--json",
            environment={"PROSERVE_ENGINE_PYTHON": engine_python},
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        found: dict[str, Any] = json.loads(finished.stdout)
        check(found, found["plans"][0]["requests"], policies)
        return found

    assert any(heavy_class_comes_first(result()) for _ in range(3))


@pytest.mark.engine
def test_the_demo_on_real_engines(engine_python: str) -> None:
    finished = demo(
        "--engine", "vllm", "--limit", "20", "--json",
        environment={"PROSERVE_ENGINE_PYTHON": engine_python},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    check(json.loads(finished.stdout), 20)
