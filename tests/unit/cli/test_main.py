"""The `proserve` command as a script sees it: output, messages and exit codes."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner, Result

from proserve_cli.main import app
from proserve_gateway.server import GatewayConfig, endpoint_targets


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
        (
            ("emulate", "--calibration", "cpu-tiny", "--policy", "fcfs", "--speed", "nan"),
            "speed: expected a number above 0, got nan",
        ),
        (("emulate", "--calibration", "cpu-tiny"), "Missing option '--policy'"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_wrong_usage_is_a_message_on_stderr_and_exit_code_2(args: tuple[str, ...], message: str) -> None:
    result = proserve(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout


def test_no_arguments_at_all_show_the_help() -> None:
    for args in ((), ("bench",)):
        result = proserve(*args)
        assert result.exit_code == 2
        assert "Usage: proserve" in result.output


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


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("engine", "serve", "generated://huge"), "there is no such generated model: use generated://tiny"),
        (("engine", "serve", "/no/such/folder"), "/no/such/folder: no such folder"),
        (("engine", "serve", "generated://tiny", "--policy", "luck"), "batching policy 'luck' does not exist"),
        (("engine", "serve", "generated://tiny", "--scheduler-cls", "x"), "--scheduler-cls: ProServe's scheduler is"),
        (("engine", "make-model", "huge"), "there is no generated model 'huge': use tiny or small"),
    ],
)
def test_engine_commands_refuse_what_cannot_work(args: tuple[str, ...], message: str) -> None:
    result = proserve(*args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_making_a_model_without_torch_names_the_engine_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = proserve("engine", "make-model", "tiny", str(tmp_path / "model"))
    assert result.exit_code == 2
    assert "needs 'tokenizers': run this with the engine environment" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("grpc", "port"), [("off", None), ("127.0.0.1:7001", 7001)])
def test_the_gateway_opens_a_grpc_port_unless_it_is_off(
    grpc: str, port: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[GatewayConfig] = []
    monkeypatch.setattr("proserve_gateway.server.run_gateway", lambda config, **_: started.append(config))
    file = Path(__file__).parents[3] / "examples" / "endpoints.yaml"
    result = proserve("gateway", "-f", str(file), "--grpc", grpc)
    assert result.exit_code == 0
    (config,) = started
    assert (None if config.grpc is None else config.grpc.port) == port


@pytest.mark.parametrize("name", ["endpoints.yaml", "shares.yaml"])
def test_engines_of_examples_can_run_beside_the_gateway(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[GatewayConfig] = []
    monkeypatch.setattr("proserve_gateway.server.run_gateway", lambda config, **_: started.append(config))
    assert proserve("gateway", "-f", str(Path(__file__).parents[3] / "examples" / name)).exit_code == 0
    (config,) = started
    ours = {listen.port for listen in (config.http, config.grpc, config.admin) if listen is not None}
    engines = {urlsplit(target.base_url).port for target in endpoint_targets(config.resources)}
    assert len(ours) == 3
    assert engines
    assert not engines & ours


def test_open_requests_get_the_time_to_end_that_the_gateway_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[GatewayConfig] = []
    monkeypatch.setattr("proserve_gateway.server.run_gateway", lambda config, **_: started.append(config))
    file = str(Path(__file__).parents[3] / "examples" / "endpoints.yaml")
    assert proserve("gateway", "-f", file, "--grace", "4m45s").exit_code == 0
    assert [config.drain_s for config in started] == [285.0]
    wrong = proserve("gateway", "-f", file, "--grace", "forever")
    assert wrong.exit_code == 2
    assert "--grace: 'forever' is not a duration" in wrong.stderr


def test_a_gateway_of_a_cluster_ends_where_no_cluster_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    monkeypatch.setattr("proserve_gateway.server.run_gateway", lambda *_, **__: pytest.fail("it was started"))
    result = proserve("gateway", "--kubernetes")
    assert result.exit_code == 1
    assert "proserve: no cluster: " in result.stderr
    assert "run this in a pod, or set KUBECONFIG" in result.stderr


@pytest.mark.parametrize("command", ["up", "gateway"])
def test_a_record_without_its_folder_is_refused_before_anything_starts(command: str, tmp_path: Path) -> None:
    file = Path(__file__).parents[3] / "examples" / "endpoints.yaml"
    result = proserve(command, "-f", str(file), "--record", str(tmp_path / "missing" / "record"))
    assert result.exit_code == 2
    assert f"--record: expected a file in a folder that exists, got {tmp_path / 'missing' / 'record'}" in result.stderr


def test_the_demo_names_the_shipped_traces_where_there_is_no_such_one() -> None:
    result = proserve("demo", "--trace", "nix", "--engine", "emulated")
    assert result.exit_code == 2
    assert (
        "nix: cannot read the trace: no such file, and none of the shipped traces (azure-code-2023, " in result.stderr
    )


def test_a_quota_store_that_cannot_be_one_is_refused_without_its_password() -> None:
    file = Path(__file__).parents[3] / "examples" / "endpoints.yaml"
    result = proserve("gateway", "-f", str(file), "--quota-store", "http://:secret@host")
    assert result.exit_code == 2
    assert "--quota-store: expected the address of a Valkey or Redis server" in result.stderr
    assert "secret" not in result.stderr
