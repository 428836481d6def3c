"""The metrics API that a HorizontalPodAutoscaler reads the CPU of pods from, with values that a test sets.

In a cluster it is metrics-server's. Here it is a server on loopback, which the API server passes requests on to.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from aggregated_api import aggregated_api
from kubernetes_access import KubernetesAccess

_PODS = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["list"]}


def pod_metrics(cluster: KubernetesAccess, *, container: str, cpu_m: Mapping[str, int]) -> AbstractContextManager[None]:
    """The API is there until the end; `cpu_m` is what that container of each pod uses, by name, at any time."""

    def answer(asked: str) -> dict[str, Any] | None:
        return _list(container, cpu_m) if asked == "pods" else None

    return aggregated_api(cluster, group="metrics.k8s.io", name="pod-metrics", answer=answer, resources=[_PODS])


def _list(container: str, cpu_m: Mapping[str, int]) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    items = [
        {
            "metadata": {"name": name},
            "timestamp": now,
            "window": "10s",
            "containers": [{"name": container, "usage": {"cpu": f"{used}m", "memory": "64Mi"}}],
        }
        for name, used in cpu_m.items()
    ]
    return {"kind": "PodMetricsList", "metadata": {}, "items": items}
