"""`proserve engine serve MODEL [vllm arguments]`: `vllm serve` with everything wired, on GPUs and on CPUs.

Builds a command line and an environment for the engine environment's interpreter; vLLM itself is not imported here.
What the user gives always wins over what is added. On a GPU only the scheduler class is added. On a CPU, where vLLM's
defaults are made for large servers, also what makes a small engine start and step fast: eager mode, the worker inside
the engine's process (with more processes than cores they only wait for each other), one OpenMP thread, small blocks,
1 GiB of KV cache, and float32 where the processor has no bfloat16.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from proserve_core.batching.registry import make_policy
from proserve_core.blocks.settings import KvOffload
from proserve_engine.access import EngineKeyMiddleware, keys_from
from proserve_engine.cpu_features import has_bf16
from proserve_engine.tiny_model import MODELS, URI_SCHEME, ModelError
from proserve_engine.tls import serving_tls
from proserve_engine.vllm.settings import EngineSettings

ENGINE_PYTHON = "PROSERVE_ENGINE_PYTHON"
SYNC_CLASS = "proserve_engine.vllm.scheduler.ProServeScheduler"
ASYNC_CLASS = "proserve_engine.vllm.scheduler.ProServeAsyncScheduler"
UNIPROC_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""As a class path: on CPU vLLM takes the word `uni` for `mp`."""

OWN_ARGUMENTS = {
    "--scheduler-cls": "ProServe's scheduler is what this command is for: run `vllm serve` for another one",
    "--scheduling-policy": "vLLM's priority queue excludes ProServe's policies: choose one with --policy",
}
KV_TRANSFER = ("--kv-transfer-config", "-kvt")


class Device(StrEnum):
    """What the engine computes on."""

    AUTO = "auto"
    """CPU if the engine environment has vLLM's CPU build, else GPU."""
    CPU = "cpu"
    GPU = "gpu"


class ServeError(ValueError):
    """The engine cannot be started as asked; the message says what to change."""


class Command(msgspec.Struct, frozen=True):
    """A process to start."""

    argv: list[str]
    environment: dict[str, str]
    """Complete: the present environment with the engine's variables in it."""


def serve_command(
    model: str,
    vllm_arguments: Sequence[str] = (),
    *,
    settings: EngineSettings,
    host: str | None = None,
    port: int | None = None,
    device: Device = Device.AUTO,
    python: str | None = None,
    environment: Mapping[str, str] | None = None,
    kv_offload: KvOffload | None = None,
) -> Command:
    """The process that serves `model`.

    Args:
        model: folder, Hugging Face name or `generated://NAME`.
        vllm_arguments: handed to `vllm serve` as they are; they win over what is added here.
        settings: policy and capacity server.
        python: interpreter of the engine environment; default `$PROSERVE_ENGINE_PYTHON`, else the present one.
        kv_offload: what is done about the KV blocks of preempted requests; None: they are computed again.

    Raises:
        ServeError: an argument that ProServe must set itself, an unknown model or interpreter.
        PolicyError: no such policy or option.
        AccessKeysError: the key file can't be used.
        TlsError: the certificate can't be used.
    """
    environment = dict(os.environ if environment is None else environment)
    _check(model, vllm_arguments)
    make_policy(settings.policy, settings.policy_options)
    python = python or environment.get(ENGINE_PYTHON) or sys.executable
    if device is Device.AUTO:
        device = detect_device(python)

    given = {argument.split("=", 1)[0] for argument in vllm_arguments if argument.startswith("-")}
    added: list[str] = []

    def add(option: str, *values: str, aliases: tuple[str, ...] = ()) -> None:
        if given.isdisjoint({option, *aliases}):
            added.extend((option, *values))

    if host is not None:
        add("--host", host)
    if port is not None:
        add("--port", str(port))
    if device is Device.CPU:
        # vLLM's CPU platform is synchronous.
        scheduler = SYNC_CLASS
        add("--enforce-eager", aliases=("--no-enforce-eager",))
        add("--distributed-executor-backend", UNIPROC_EXECUTOR)
        add("--block-size", "32")
        if not has_bf16():
            # Without instructions for it, bfloat16 made prefills ten times and steps three times as long.
            add("--dtype", "float32")
    else:
        scheduler = SYNC_CLASS if "--no-async-scheduling" in given else ASYNC_CLASS
    argv = [python, "-m", "proserve_engine.vllm.launch", "serve", model, "--scheduler-cls", scheduler]
    if model.startswith(URI_SCHEME):
        add("--served-model-name", model.removeprefix(URI_SCHEME))
        # vLLM would halve it, and not every CPU can compute in 16 bits.
        add("--dtype", "float32")

    if settings.key_file is not None:
        # As an engine does that can't be reached by anybody else: a file that can't be used ends the start.
        keys_from(settings.key_file)
        added.extend(("--middleware", f"{EngineKeyMiddleware.__module__}.{EngineKeyMiddleware.__name__}"))

    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if settings.tls is not None:
        serving_tls(settings.tls)
        add("--ssl-certfile", settings.tls.certificate)
        add("--ssl-keyfile", settings.tls.key)
        add("--enable-ssl-refresh")
        # Otherwise vLLM follows a file and not its name: a mounted Secret is another file after each renewal, and the
        # second one would not be seen.
        variables["WATCHFILES_FORCE_POLLING"] = "true"

    if kv_offload is not None:
        if not given.isdisjoint(KV_TRANSFER):
            raise ServeError("--kv-offload is a --kv-transfer-config of its own: give one of the two")
        added.extend((KV_TRANSFER[0], msgspec.json.encode(kv_transfer_config(kv_offload)).decode()))

    if model.startswith(URI_SCHEME) or Path(model).is_dir():
        variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if device is Device.CPU:
        variables |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1"}
    if device is Device.CPU and settings.calibration is None:
        settings = msgspec.structs.replace(settings, calibration="cpu-tiny")
    complete = variables | environment | settings.to_environment()
    # A vLLM that is compiled anew by each of its processes takes two minutes to start.
    complete.pop("PYTHONDONTWRITEBYTECODE", None)
    return Command([*argv, *added, *vllm_arguments], complete)


def kv_transfer_config(settings: KvOffload) -> dict[str, Any]:
    """vLLM's `--kv-transfer-config` for these settings."""
    return {
        "kv_connector": "ProServeConnector",
        "kv_connector_module_path": "proserve_engine.vllm.kv_connector",
        # Of a consumer vLLM keeps preempted requests' blocks until the steps in flight are over, because its transfers
        # write whenever they like. Ours are ordered with the steps.
        "kv_role": "kv_producer",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": settings.to_mapping(),
    }


def run(command: Command) -> None:
    """Become the engine: signals reach vLLM directly, and its exit status is ours. Does not return."""
    os.execvpe(command.argv[0], command.argv, command.environment)


def detect_device(python: str) -> Device:
    """Which build of vLLM the interpreter has.

    Raises:
        ServeError: no such interpreter, or it has no vLLM.
    """
    code = (
        "from importlib.metadata import version, PackageNotFoundError\n"
        "try: print(version('vllm'))\n"
        "except PackageNotFoundError: print(version('vllm-cpu') + '+cpu')"
    )
    try:
        probe = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        raise ServeError(
            f"{python}: cannot be run ({error.strerror}); set {ENGINE_PYTHON} to an interpreter"
        ) from error
    if probe.returncode != 0:
        raise ServeError(
            f"{python} has no vLLM: `make engine` builds an environment with its CPU build, `pip install "
            f"'proserve[engine]'` is for GPUs; name another interpreter with {ENGINE_PYTHON}"
        )
    return Device.CPU if "cpu" in probe.stdout else Device.GPU


def _check(model: str, vllm_arguments: Sequence[str]) -> None:
    if not model or model.startswith("-"):
        raise ServeError(f"MODEL: expected a folder, a Hugging Face name or generated://NAME, got {model!r}")
    if model.startswith(URI_SCHEME) and model.removeprefix(URI_SCHEME) not in MODELS:
        raise ModelError(
            f"{model}: there is no such generated model: use {', '.join(URI_SCHEME + name for name in MODELS)}"
        )
    if model.startswith(("/", "./", "../", "~")) and not Path(model).expanduser().is_dir():
        raise ServeError(f"{model}: no such folder; a model folder has a config.json")
    for argument in vllm_arguments:
        option = argument.split("=", 1)[0].replace("_", "-")
        if option in OWN_ARGUMENTS:
            raise ServeError(f"{option}: {OWN_ARGUMENTS[option]}")
