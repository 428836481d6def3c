"""From pools to engine commands."""

from pathlib import Path

import msgspec
import pytest

from proserve_cli.engine_kind import EngineKind
from proserve_cli.engine_launch import LaunchError, engine_specs
from proserve_core.blocks.settings import KvOffload, Offload, kv_offload
from proserve_core.resources import parse_resources
from proserve_engine import serve

POOL = parse_resources(
    {"quickstart": (Path(__file__).parents[3] / "examples" / "quickstart.yaml").read_text()}
).engine_pools[0]


def test_each_replica_is_an_engine_on_its_own_port() -> None:
    first, second = engine_specs(POOL, EngineKind.EMULATED)
    assert (first.name, second.name) == ("tiny-0", "tiny-1")
    assert first.base_url != second.base_url
    command = list(first.command)
    assert command[command.index("--policy") + 1] == POOL.engine.batching_policy
    assert command[command.index("--model") + 1] == "tiny"


def test_the_policy_can_be_overridden() -> None:
    assert {spec.policy for spec in engine_specs(POOL, EngineKind.EMULATED, policy="fcfs")} == {"fcfs"}


def test_a_pool_of_endpoints_starts_nothing() -> None:
    assert engine_specs(msgspec.structs.replace(POOL, replicas=0), EngineKind.VLLM) == []


def test_without_vllm_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_ENGINE_PYTHON", "/nowhere/python")
    with pytest.raises(LaunchError, match=r"EnginePool tiny: /nowhere/python: cannot be run.*PROSERVE_ENGINE_PYTHON"):
        engine_specs(POOL, EngineKind.VLLM)


def test_kv_offload_reaches_a_real_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "detect_device", lambda _: serve.Device.CPU)
    settings = KvOffload(host_memory="64Mi", offload=Offload.ON_PREEMPT)
    pool = msgspec.structs.replace(POOL, engine=msgspec.structs.replace(POOL.engine, kv_offload=settings))
    command = list(engine_specs(pool, EngineKind.VLLM)[0].command)
    config = msgspec.json.decode(command[command.index("--kv-transfer-config") + 1])
    assert kv_offload(config["kv_connector_extra_config"]) == settings
    pool = msgspec.structs.replace(POOL, engine=msgspec.structs.replace(POOL.engine, kv_offload=None))
    assert "--kv-transfer-config" not in engine_specs(pool, EngineKind.VLLM)[0].command
