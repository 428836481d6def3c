"""The command line that starts a real engine."""

import json
import sys
from pathlib import Path

import msgspec
import pytest

from proserve_core.batching.registry import PolicyError
from proserve_core.blocks.settings import CopyBudget, KvOffload, kv_offload
from proserve_engine.serve import ASYNC_CLASS, SYNC_CLASS, Device, ServeError, detect_device, serve_command
from proserve_engine.tiny_model import ModelError
from proserve_engine.tls import TlsError, TlsPair
from proserve_engine.vllm.settings import EngineSettings, SettingsError
from tls_files import DATA

SETTINGS = EngineSettings(policy="slide-batching", capacity_port=9400)


def command(model: str = "org/model", *arguments: str, device: Device = Device.GPU) -> list[str]:
    return serve_command(model, arguments, settings=SETTINGS, device=device, python="python", environment={}).argv


def environment(model: str = "org/model", *, device: Device = Device.GPU, **given: str) -> dict[str, str]:
    return serve_command(model, settings=SETTINGS, device=device, python="python", environment=given).environment


def after(argv: list[str], option: str) -> str:
    return argv[argv.index(option) + 1]


def test_gpu_engine_gets_the_asynchronous_scheduler_and_nothing_else() -> None:
    argv = command()
    assert argv == ["python", "-m", "proserve_engine.vllm.launch", "serve", "org/model", "--scheduler-cls", ASYNC_CLASS]


def test_gpu_engine_without_asynchronous_scheduling_gets_the_synchronous_one() -> None:
    assert after(command("org/model", "--no-async-scheduling"), "--scheduler-cls") == SYNC_CLASS


def test_cpu_engine_is_made_small_and_fast() -> None:
    argv = command(device=Device.CPU)
    assert after(argv, "--scheduler-cls") == SYNC_CLASS
    assert "--enforce-eager" in argv
    assert after(argv, "--block-size") == "32"
    assert after(argv, "--distributed-executor-backend").endswith("UniProcExecutor")
    variables = environment(device=Device.CPU)
    assert variables["OMP_NUM_THREADS"] == "1"
    assert variables["PROSERVE_CALIBRATION"] == "cpu-tiny"


def test_the_users_arguments_and_environment_win() -> None:
    argv = command("org/model", "--block-size=64", "--no-enforce-eager", device=Device.CPU)
    assert "--block-size" not in argv
    assert "--enforce-eager" not in argv
    assert argv[-2:] == ["--block-size=64", "--no-enforce-eager"]
    assert environment(device=Device.CPU, OMP_NUM_THREADS="4")["OMP_NUM_THREADS"] == "4"


def test_certificate_is_given_to_vllm_and_to_the_capacity_server_and_followed_by_both() -> None:
    pair = TlsPair(certificate=str(DATA / "first-server.pem"), key=str(DATA / "first-server.key"))
    settings = msgspec.structs.replace(SETTINGS, tls=pair)
    made = serve_command("m", settings=settings, device=Device.GPU, python="python", environment={})
    assert (after(made.argv, "--ssl-certfile"), after(made.argv, "--ssl-keyfile")) == (pair.certificate, pair.key)
    assert "--enable-ssl-refresh" in made.argv
    # Or vLLM would see the first renewal of a mounted Secret only.
    assert made.environment["WATCHFILES_FORCE_POLLING"] == "true"
    assert EngineSettings.from_environment(made.environment).tls == pair
    wrong = msgspec.structs.replace(SETTINGS, tls=TlsPair(certificate="/nowhere.pem", key=pair.key))
    with pytest.raises(TlsError, match=r"/nowhere\.pem and .* cannot be read"):
        serve_command("m", settings=wrong, device=Device.GPU, python="python", environment={})
    with pytest.raises(SettingsError, match="PROSERVE_ENGINE_TLS_CERT and PROSERVE_ENGINE_TLS_KEY need each other"):
        EngineSettings.from_environment({"PROSERVE_ENGINE_TLS_CERT": "/tls.crt"})


def test_policy_and_capacity_reach_the_engine_through_its_environment() -> None:
    settings = EngineSettings(
        policy="slide-batching",
        policy_options={"urgency": 0.9},
        capacity_host="0.0.0.0",
        capacity_port=1234,
        step_log="/tmp/steps",
    )
    variables = serve_command("m", settings=settings, device=Device.GPU, python="python", environment={}).environment
    assert EngineSettings.from_environment(variables) == settings


def test_only_local_models_are_kept_from_the_hub(tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE" not in environment("org/model")
    assert environment(str(tmp_path))["HF_HUB_OFFLINE"] == "1"
    assert environment("generated://tiny")["HF_HUB_OFFLINE"] == "1"


def test_engine_processes_share_compiled_modules() -> None:
    assert "PYTHONDONTWRITEBYTECODE" not in environment(PYTHONDONTWRITEBYTECODE="1")


def test_generated_model_is_served_under_its_short_name() -> None:
    assert after(command("generated://tiny"), "--served-model-name") == "tiny"
    argv = command("generated://tiny", "--served-model-name", "mine")
    assert argv.count("--served-model-name") == 1


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("", (), "MODEL: expected a folder"),
        ("--port", (), "MODEL: expected a folder"),
        ("./missing", (), "no such folder"),
        ("m", ("--scheduler-cls", "x.Y"), "--scheduler-cls: ProServe's scheduler"),
        ("m", ("--scheduler_cls=x.Y",), "--scheduler-cls: ProServe's scheduler"),
        ("m", ("--scheduling-policy=priority",), "--policy"),
    ],
)
def test_impossible_requests_are_refused_with_what_to_do(model: str, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ServeError, match=message):
        command(model, *arguments)


def test_unknown_generated_model_policy_and_option_are_refused() -> None:
    with pytest.raises(ModelError, match="generated://tiny"):
        command("generated://huge")
    with pytest.raises(PolicyError, match="slide-batching"):
        serve_command("m", settings=EngineSettings(policy="best"), device=Device.GPU, environment={})
    with pytest.raises(PolicyError):
        serve_command(
            "m", settings=EngineSettings(policy="fcfs", policy_options={"x": 1}), device=Device.GPU, environment={}
        )


def test_interpreter_that_cannot_run_is_named() -> None:
    with pytest.raises(ServeError, match=r"/no/such/python.*PROSERVE_ENGINE_PYTHON"):
        detect_device("/no/such/python")


def test_interpreter_without_vllm_is_told_how_to_get_it(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(ServeError, match="make engine"):
        detect_device(str(bare))


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"PROSERVE_POLICY_OPTIONS": "[1]"}, "PROSERVE_POLICY_OPTIONS"),
        ({"PROSERVE_POLICY_OPTIONS": "{"}, "PROSERVE_POLICY_OPTIONS"),
        ({"PROSERVE_CAPACITY_PORT": "http"}, "PROSERVE_CAPACITY_PORT"),
        ({"PROSERVE_CAPACITY_PORT": "70000"}, "PROSERVE_CAPACITY_PORT"),
    ],
)
def test_unusable_settings_are_refused_by_name(variables: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        EngineSettings.from_environment(variables)


@pytest.mark.parametrize(("instructions", "expected"), [(False, ["--dtype", "float32"]), (True, [])])
def test_a_cpu_without_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, instructions: bool, expected: list[str]
) -> None:
    monkeypatch.setattr("proserve_engine.serve.has_bf16", lambda: instructions)
    argv = command(device=Device.CPU)
    assert [part for part in argv if part in ("--dtype", "float32")] == expected
    assert "--dtype" not in command(device=Device.GPU)


def test_kv_offload_becomes_a_transfer_config_with_all_its_settings() -> None:
    offload = KvOffload(host_memory="2Gi", copy_budget=CopyBudget.FIXED)
    argv = serve_command(
        "org/model", settings=SETTINGS, device=Device.GPU, python="python", environment={}, kv_offload=offload
    ).argv
    transfer = json.loads(after(argv, "--kv-transfer-config"))
    assert kv_offload(transfer["kv_connector_extra_config"]) == offload
    assert transfer["kv_connector_module_path"] == "proserve_engine.vllm.kv_connector"


def test_kv_offload_beside_another_transfer_config_is_refused() -> None:
    with pytest.raises(ServeError, match="give one of the two"):
        serve_command(
            "org/model", ["--kv-transfer-config={}"], settings=SETTINGS, device=Device.GPU, python="python",
            environment={}, kv_offload=KvOffload(host_memory="2Gi"),
        )  # fmt: skip
