"""The metrics API that a HorizontalPodAutoscaler reads external metrics from, with values that a test sets.

In a cluster of somebody's it is served by an adapter of Prometheus or KEDA. Here it is a server outside the node, at
this machine's end of the cable.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from aggregated_api import aggregated_api
from kubernetes_access import KubernetesAccess
from node_namespace import HOST_ADDRESS


def external_metrics(cluster: KubernetesAccess, values: Mapping[str, int]) -> AbstractContextManager[None]:
    """The API is there until the end; `values` are what it says of each metric, at any time."""

    def answer(asked: str) -> dict[str, Any] | None:
        return _list(asked, values[asked]) if asked in values else None

    return aggregated_api(
        cluster, group="external.metrics.k8s.io", name="external-metrics", answer=answer, host=HOST_ADDRESS
    )


def _list(metric: str, value: int) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    item = {"metricName": metric, "metricLabels": {}, "timestamp": now, "value": str(value)}
    return {"kind": "ExternalMetricValueList", "metadata": {}, "items": [item]}
