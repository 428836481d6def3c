"""What an EnginePool says about its pods, and about how many there are."""

from typing import Any

import pytest

from proserve_core.objectives import SecretKeyRef
from proserve_core.pools import EngineRuntime, EnvironmentVariable, ModelCache, Rollout, Scaling
from resource_builders import engine_pool, errors_of, parse


def test_pod_settings_are_read() -> None:
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    template = {"spec": {"hostIPC": True}}
    (pool,) = parse(
        engine_pool(
            engine={
                "runtime": "Emulated",
                "env": [
                    {"name": "A", "value": ""},
                    {"name": "HF_TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}},
                ],
                "startLimit": "5m",
            },
            pod={
                "nodeSelector": {"gpu.example/product": "H100"},
                "tolerations": [toleration],
                "imagePullSecrets": ["registry"],
                "sharedMemory": "16Gi",
                "modelCache": {"claimName": "models"},
                "template": template,
            },
            rollout={"strategy": "Replace"},
            drain={"gracePeriod": "2m"},
        )
    ).engine_pools
    assert pool.engine.runtime is EngineRuntime.EMULATED
    assert pool.engine.env == (
        EnvironmentVariable(name="A", value=""),
        EnvironmentVariable(name="HF_TOKEN", secret=SecretKeyRef(name="hub", key="token")),
    )
    assert (pool.engine.start_limit_s, pool.drain_s, pool.rollout) == (300.0, 120.0, Rollout.REPLACE)
    assert pool.pod.node_selector == {"gpu.example/product": "H100"}
    assert pool.pod.tolerations == (toleration,)
    assert (pool.pod.image_pull_secrets, pool.pod.shared_memory) == (("registry",), "16Gi")
    assert pool.pod.model_cache == ModelCache(claim_name="models")
    assert pool.pod.template == template


def test_pool_without_them_has_defaults() -> None:
    (pool,) = parse(engine_pool()).engine_pools
    assert (pool.engine.runtime, pool.engine.start_limit_s) == (EngineRuntime.VLLM, 1800.0)
    assert (pool.drain_s, pool.rollout, pool.pod.shared_memory) == (60.0, Rollout.SURGE, "2Gi")


def test_scaled_pool_begins_with_its_fewest_engines() -> None:
    (pool,) = parse(engine_pool(scaling={"min": 2, "max": 5})).engine_pools
    assert pool.replicas == 2
    assert pool.scaling == Scaling(min_engines=2, max_engines=5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"replicas": 2, "scaling": {"max": 3}}, "spec.replicas: contradicts spec.scaling; remove one of the two"),
        ({"scaling": {"min": 4, "max": 3}}, "spec.scaling.min: 4 is above spec.scaling.max (3); lower it or raise max"),
        ({"pod": {"modelCache": {}}}, "spec.pod.modelCache: has none of them; it takes exactly one of"),
        (
            {"pod": {"modelCache": {"size": "1Gi", "claimName": "x"}}},
            "spec.pod.modelCache: has claimName, size; it takes exactly one of claimName, hostPath and size",
        ),
        ({"pod": {"tolerations": [{"value": "x"}]}}, "spec.pod.tolerations[0].key: is missing; name the taint"),
        (
            {"pod": {"tolerations": [{"operator": "Exists", "value": "x"}]}},
            "spec.pod.tolerations[0].value: means nothing with operator Exists; remove it",
        ),
        (
            {"pod": {"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]}},
            "spec.pod.tolerations[0].tolerationSeconds: means nothing without effect NoExecute; remove it",
        ),
        ({"engine": {"env": [{"name": "A"}]}}, "spec.engine.env[0]: takes either value or secretKeyRef"),
        (
            {"engine": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
            "spec.engine.env[1].name: 'A' is there twice; remove one of the two",
        ),
        ({"pod": {"sharedMemory": "0"}}, "spec.pod.sharedMemory: got '0'; expected a quantity from 1 to 1Pi"),
        ({"pod": {"template": []}}, "spec.pod.template: got a list; expected a mapping"),
        ({"drain": {"gracePeriod": "2h"}}, "spec.drain.gracePeriod: got '2h'; expected a duration from 1s to 1h"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], says: str) -> None:
    (error,) = errors_of(engine_pool(**fields))
    assert says in error


@pytest.mark.parametrize("count", [65, 1000])
def test_long_lists_are_refused(count: int) -> None:
    (error,) = errors_of(engine_pool(engine={"args": [f"--a{number}" for number in range(count)]}))
    assert f"spec.engine.args: has {count} entries; use at most 64" in error


def test_what_a_cluster_added_is_not_read() -> None:
    data = engine_pool()
    data["metadata"] |= {"uid": "1", "generation": 3, "managedFields": []}
    data["status"] = {"replicas": 1}
    assert errors_of(data) == []
