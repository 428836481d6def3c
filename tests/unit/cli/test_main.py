"""The `proserve` command as a script sees it: output, messages and exit codes."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner, Result

from proserve_cli.main import app


def proserve(*args: str) -> Result:
    return CliRunner().invoke(app, list(args), prog_name="proserve")


def test_version_is_one_line_on_stdout() -> None:
    result = proserve("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("proserve ")
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("emulate", "--calibration", "abacus", "--policy", "fcfs"), "calibration 'abacus' does not exist; known: "),
        (("emulate", "--calibration", "cpu-tiny", "--policy", "luck"), "batching policy 'luck' does not exist"),
        (
            ("emulate", "--calibration", "cpu-tiny", "--policy", "fcfs", "--speed", "0"),
            "speed: expected a number above",
        ),
        (("emulate", "--calibration", "cpu-tiny"), "Missing option '--policy'"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_wrong_usage_is_a_message_on_stderr_and_exit_code_2(args: tuple[str, ...], message: str) -> None:
    result = proserve(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout


def test_a_missing_part_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("proserve_engine.emulator")]:
        monkeypatch.delitem(sys.modules, name)
    result = proserve("emulate", "--calibration", "cpu-tiny", "--policy", "fcfs")
    assert result.exit_code == 2
    assert "'uvicorn'" in result.stderr
    assert "pip install 'proserve[emulator]'" in result.stderr


def test_help_imports_no_server() -> None:
    code = "import sys, proserve_cli.main; print(sorted({'uvicorn', 'grpc', 'numpy', 'httpx'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
