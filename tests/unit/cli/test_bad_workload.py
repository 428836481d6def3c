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
    done = CliRunner().invoke(app, [*COMMANDS[command], *options], prog_name="proserve")
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
        (["--rate", "0"], "--rate: expected a positive number of requests per second, got 0"),
        (["--rate", "-2"], "--rate: expected a positive number of requests per second, got -2"),
        (["--rate", "nan"], "--rate: expected a positive number of requests per second, got nan"),
        (["--rate", "1e-300"], "--rate: expected more than"),
        (["--rate", "many"], "'--rate'"),
        (["--limit", "0"], "'--limit'"),
        (["--limit", "1.5"], "'--limit'"),
        (["--replicas", "0"], "'--replicas'"),
        (["--seed", "-1"], "'--seed'"),
        (["--format", "xml"], "'--format'"),
        (["--speed", "2"], "No such option: --speed"),
        (["--classes", "missing.yaml"], "missing.yaml: cannot be read: No such file or directory"),
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
        (["--kv-blocks", "0"], "'--kv-blocks'"),
        (["--kv-blocks", "1"], "trace.csv: row 1: request 'r0': 100 prompt and 5 output tokens need 7 blocks"),
        (["--token-log", "/no/such/folder/log"], "--token-log: expected a file in a folder that exists"),
    ],
)
def test_what_only_simulate_takes_is_named(trace: str, options: list[str], message: str) -> None:
    assert message in refusal("simulate", "--trace", trace, *options)


@both_commands
@pytest.mark.parametrize(
    "text",
    [
        "",
        "arrival_s,prompt_tokens\n0,1\n",
        HEADINGS,
        HEADINGS + "0,-5,3\n",
        HEADINGS + "0,5,-3\n",
        HEADINGS + "0,5,3,1\n",
        HEADINGS + "0,1" + 400 * "0" + ",3\n",
        HEADINGS + "0,400000,100000\n",  # more than the engine's blocks
    ],
)
def test_unusable_trace_is_named(command: str, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert str(path) in refusal(command, "--trace", str(path))


@both_commands
def test_a_folder_or_a_damaged_file_as_trace_is_named(command: str, tmp_path: Path) -> None:
    damaged = tmp_path / "trace.csv.gz"
    damaged.write_text(HEADINGS)
    assert f"{tmp_path}: cannot read the trace: Is a directory" in refusal(command, "--trace", str(tmp_path))
    assert f"{damaged}: cannot read the trace: Not a gzipped file" in refusal(command, "--trace", str(damaged))


@both_commands
def test_a_missing_option_is_named_with_where_to_read_on(command: str) -> None:
    assert refusal(command) == f"proserve: Missing option '--trace'; see 'proserve {command} --help'"


@both_commands
def test_a_class_file_with_one_mistake_is_one_line(command: str, trace: str, tmp_path: Path) -> None:
    classes = tmp_path / "classes.yaml"
    classes.write_text(
        "apiVersion: proserve.dev/v1alpha1\nkind: PriorityClass\nmetadata: {name: a}\n"
        "spec: {weight: 0, objectives: {timeToFirstToken: 1s, timePerOutputToken: 50ms}}\n"
    )
    line = refusal(command, "--trace", trace, "--classes", str(classes))
    assert str(classes) in line
    assert "spec.weight" in line
