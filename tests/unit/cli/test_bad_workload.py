"""Bad input of the commands that take a trace: one clear line and exit code 2."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from proserve_cli.main import app

COMMANDS = {
    "simulate": ["simulate", "--calibration", "h100-llama-3.1-8b", "--policy", "fcfs"],
    "bound": ["bound", "--calibration", "h100-llama-3.1-8b"],
}
HEADINGS = "arrival_s,prompt_tokens,output_tokens\n"

both_commands = pytest.mark.parametrize("command", COMMANDS)


def refusal(command: str, *options: str) -> str:
    """The line that the command ends with."""
    done = CliRunner().invoke(app, [*COMMANDS[command], *options])
    assert done.exit_code == 2
    [line] = done.stderr.strip().splitlines()
    return line


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.csv"
    path.write_text(HEADINGS + "0,100,5\n0.5,101,6\n")
    return str(path)


@both_commands
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0"], "--rate: expected a positive number"),
        (["--calibration", "nix"], "calibration 'nix' does not exist"),
        (["--trace", "missing.csv"], "cannot read the trace"),
    ],
)
def test_bad_option_is_named(command: str, trace: str, options: list[str], message: str) -> None:
    assert message in refusal(command, "--trace", trace, *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "nix"], "batching policy 'nix' does not exist"),
        (["--router", "nix"], "routing policy 'nix' does not exist"),
        (["--kv-blocks", "1"], "the engine has 1"),
    ],
)
def test_what_only_simulate_takes_is_named(trace: str, options: list[str], message: str) -> None:
    assert message in refusal("simulate", "--trace", trace, *options)


@both_commands
@pytest.mark.parametrize(
    "text", ["", "arrival_s,prompt_tokens\n0,1\n", HEADINGS, HEADINGS + "0,-5,3\n", HEADINGS + "0,5,-3\n"]
)
def test_unusable_trace_is_named(command: str, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert str(path) in refusal(command, "--trace", str(path))
