"""Pools that ask for GPUs, on a node that claims to have some: containers get none, the scheduler does not know."""

import json
from typing import Any

from installation import Installation
from single_node import SingleNode

GPUS = 2


def pool() -> dict[str, Any]:
    return {
        "apiVersion": "proserve.dev/v1alpha1",
        "kind": "EnginePool",
        "metadata": {"name": "gpus", "namespace": "default"},
        "spec": {
            "model": {"name": "gpus", "uri": "generated://tiny"},
            "replicas": GPUS + 1,
            "engine": {"runtime": "Emulated"},
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
            "pod": {
                "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "imagePullPolicy": "Never",
            },
        },
    }


def pods(node: SingleNode) -> list[Any]:
    found: list[Any] = node.get("pods", "-l", "proserve.dev/pool=gpus")["items"]
    return found


def phases(node: SingleNode) -> list[str]:
    return sorted(pod["status"]["phase"] for pod in pods(node))


def test_engines_take_the_gpus_that_there_are(installation: Installation, node: SingleNode) -> None:
    node.add_gpus(GPUS)
    node.kubectl("label", "node", "--all", "nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3")
    node.kubectl("taint", "node", "--all", "nvidia.com/gpu=present:NoSchedule")
    try:
        node.kubectl("apply", "-f", "-", stdin=json.dumps(pool()))
        node.wait_for(
            lambda: phases(node) == ["Pending"] + ["Running"] * GPUS, limit_s=300, what="pods on both GPUs, one waiting"
        )
        (waiting,) = [pod for pod in pods(node) if pod["status"]["phase"] == "Pending"]
        assert "Insufficient nvidia.com/gpu" in str(waiting["status"]["conditions"])
    finally:
        node.kubectl("taint", "node", "--all", "nvidia.com/gpu-")
        node.kubectl("delete", "enginepool", "gpus", "--ignore-not-found")
    # An engine that is deleted while it starts may take all of its grace period.
    node.wait_for(lambda: phases(node) == [], limit_s=300, what="end of the pool's pods")
