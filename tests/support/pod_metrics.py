"""The metrics API that a HorizontalPodAutoscaler reads the CPU of pods from, with values that a test sets.

In a cluster it is metrics-server's. Here it is a server on loopback, which the API server passes requests on to.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from kubernetes_access import KubernetesAccess
from local_server import QuietHandler, local_server
from tls_files import server_context

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
_NAME = "pod-metrics"


@contextlib.contextmanager
def pod_metrics(cluster: KubernetesAccess, *, container: str, cpu_m: Mapping[str, int]) -> Iterator[None]:
    """The API is there until the end; `cpu_m` is what that container of each pod uses, by name, at any time."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name that http.server looks for
            is_pods = self.path.partition("?")[0].endswith("/pods")
            content = json.dumps(_list(container, cpu_m) if is_pods else _DISCOVERY).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

    with local_server(Handler, tls=server_context("first")) as address:
        objects = "\n---\n".join(json.dumps(each) for each in _objects(int(address.rpartition(":")[2])))
        try:
            cluster.kubectl("apply", "-f", "-", stdin=objects)
            cluster.kubectl("wait", "--for=condition=Available", f"apiservice/{VERSION}.{GROUP}", "--timeout=60s")
            yield
        finally:
            cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=objects)


_DISCOVERY = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": f"{GROUP}/{VERSION}",
    "resources": [{"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["list"]}],
}


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
    return {"kind": "PodMetricsList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": items}


def _objects(port: int) -> list[dict[str, Any]]:
    metadata = {"name": _NAME, "namespace": "kube-system"}
    elsewhere = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": elsewhere},
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {**metadata, "port": port},
            },
        },
    ]
