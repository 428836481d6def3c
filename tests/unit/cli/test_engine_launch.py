"""From pools to engine commands."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from proserve_cli.engine_kind import EngineKind
from proserve_cli.engine_launch import LaunchError, engine_specs
from proserve_core.blocks.settings import KvOffload, Offload, kv_offload
from proserve_core.pools import Endpoint, EnginePool
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
    outside = (Endpoint(url="http://127.0.0.1:8000"),)
    assert engine_specs(msgspec.structs.replace(POOL, replicas=0, endpoints=outside), EngineKind.VLLM) == []


def test_a_pool_that_is_scaled_to_nothing_is_refused() -> None:
    with pytest.raises(LaunchError, match=r"EnginePool tiny: spec\.replicas is 0: nothing would serve it"):
        engine_specs(msgspec.structs.replace(POOL, replicas=0), EngineKind.VLLM)


def test_without_vllm_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_ENGINE_PYTHON", "/nowhere/python")
    with pytest.raises(LaunchError, match=r"EnginePool tiny: /nowhere/python: cannot be run.*PROSERVE_ENGINE_PYTHON"):
        engine_specs(POOL, EngineKind.VLLM)


def pool_with(settings: KvOffload | None) -> EnginePool:
    return msgspec.structs.replace(POOL, engine=msgspec.structs.replace(POOL.engine, kv_offload=settings))


def value_of(option: str, command: Sequence[str]) -> bytes:
    return command[list(command).index(option) + 1].encode()


def test_kv_offload_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "detect_device", lambda _: serve.Device.CPU)
    settings = KvOffload(host_memory="64Mi", offload=Offload.ON_PREEMPT)
    real, *_ = engine_specs(pool_with(settings), EngineKind.VLLM)
    config = msgspec.json.decode(value_of("--kv-transfer-config", real.command))
    assert kv_offload(config["kv_connector_extra_config"]) == settings
    emulated, *_ = engine_specs(pool_with(settings), EngineKind.EMULATED)
    assert kv_offload(msgspec.json.decode(value_of("--kv-offload", emulated.command))) == settings


def test_without_kv_offload_engines_have_no_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "detect_device", lambda _: serve.Device.CPU)
    for kind, option in ((EngineKind.VLLM, "--kv-transfer-config"), (EngineKind.EMULATED, "--kv-offload")):
        assert option not in engine_specs(pool_with(None), kind)[0].command
