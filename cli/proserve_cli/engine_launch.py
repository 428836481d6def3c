"""From an EnginePool to the commands of its engines on this machine: real vLLM or emulated, on free loopback ports."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from proserve_cli.engine_kind import EngineKind
from proserve_cli.local_engines import EngineSpec
from proserve_core.pools import EnginePool, ModelOrigin
from proserve_lab.free_port import free_port

STOCK = "stock"
"""Stands for a policy where engines have none of ours."""
SCHEDULER_OPTION = "--scheduler-cls"
START_LIMIT_S = {EngineKind.VLLM: 1800.0, EngineKind.EMULATED: 180.0}
"""Time an engine gets until it answers: a large model may come from a slow disk, and three small engines that start
together on two busy cores take minutes; an emulator has nothing to load."""


class LaunchError(Exception):
    """The pool's engines can't be started on this machine; the message says what to do."""


def pool_label(pool: EnginePool) -> str:
    """Name of the pool in messages and metrics."""
    return pool.name if pool.namespace == "default" else f"{pool.namespace}/{pool.name}"


def engine_specs(
    pool: EnginePool, kind: EngineKind, *, policy: str | None = None, key_file: Path | None = None
) -> list[EngineSpec]:
    """One spec per replica of the pool. `policy` overrides the pool's own; engines answer only who knows a key of
    `key_file`.

    Raises:
        LaunchError: the pool's engines can't be started like this here.
    """
    if pool.replicas == 0 and not pool.endpoints:
        raise LaunchError(f"EnginePool {pool_label(pool)}: spec.replicas is 0: nothing would serve it; set at least 1")
    policy = policy or pool.engine.batching_policy
    make = _vllm if kind is EngineKind.VLLM else _emulated
    return [
        make(pool, f"{pool_label(pool).replace('/', '-')}-{number}", policy, key_file)
        for number in range(pool.replicas)
    ]


def stock_specs(pool: EnginePool, kind: EngineKind) -> list[EngineSpec]:
    """The same engines as somebody would run them who does not know ProServe: vLLM with its own scheduler and without
    any plug-in, in the emulator's case `fcfs`, and nothing tells the gateway of their capacity.

    Raises:
        LaunchError: the pool's engines can't be started like this here.
    """
    return [
        msgspec.structs.replace(
            spec,
            policy=STOCK,
            command=_without_scheduler(spec.command),
            environment={**spec.environment, "VLLM_PLUGINS": ""},
            capacity_url="",
            ready_urls=(f"{spec.base_url}/health",),
        )
        for spec in engine_specs(pool, kind, policy="fcfs")
    ]


def _without_scheduler(command: Sequence[str]) -> list[str]:
    kept = list(command)
    if SCHEDULER_OPTION in kept:
        place = kept.index(SCHEDULER_OPTION)
        del kept[place : place + 2]
    return kept


def _emulated(pool: EnginePool, name: str, policy: str, key_file: Path | None) -> EngineSpec:
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "proserve_cli", "emulate", "--calibration", pool.calibration, "--policy", policy,
        "--model", pool.model.name, "--port", str(port),
    ]  # fmt: skip
    if key_file is not None:
        command += ["--key-file", str(key_file)]
    if pool.engine.kv_offload is not None:
        command += ["--kv-offload", msgspec.json.encode(pool.engine.kv_offload.to_mapping()).decode()]
    return EngineSpec(
        name=name, pool=pool_label(pool), policy=policy, command=command, environment=dict(os.environ),
        base_url=root, capacity_url=root, ready_urls=(f"{root}/health",),
    )  # fmt: skip


def _vllm(pool: EnginePool, name: str, policy: str, key_file: Path | None) -> EngineSpec:
    from proserve_engine.serve import ServeError, serve_command
    from proserve_engine.tiny_model import ModelError
    from proserve_engine.vllm.settings import EngineSettings

    port, capacity_port = free_port(), free_port()
    arguments = ["--served-model-name", pool.model.name]
    if pool.model.max_model_length is not None:
        arguments += ["--max-model-len", str(pool.model.max_model_length)]
    settings = EngineSettings(
        policy=policy, capacity_port=capacity_port, key_file=None if key_file is None else str(key_file)
    )
    try:
        command = serve_command(
            _model(pool),
            [*arguments, *pool.engine.args],
            settings=settings,
            host="127.0.0.1",
            port=port,
            kv_offload=pool.engine.kv_offload,
        )
    except (ServeError, ModelError) as error:
        raise LaunchError(f"EnginePool {pool_label(pool)}: {error}") from error
    root, capacity_root = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{capacity_port}"
    return EngineSpec(
        name=name, pool=pool_label(pool), policy=policy, command=command.argv, environment=command.environment,
        base_url=root, capacity_url=capacity_root, ready_urls=(f"{root}/health", f"{capacity_root}/healthz"),
    )  # fmt: skip


def _model(pool: EnginePool) -> str:
    source = pool.model.source
    if source is None:
        raise LaunchError(f"EnginePool {pool_label(pool)}: spec.model.uri is missing, it names the model to load")
    return f"generated://{source.location}" if source.origin is ModelOrigin.GENERATED else source.location
