"""The metrics API that a HorizontalPodAutoscaler reads external metrics from, with values that a test sets.

In a cluster of somebody's it is served by an adapter of Prometheus or KEDA. Here it is a server outside the node, which
the API server passes requests on to (an APIService, and a Service whose endpoint is this machine's end of the cable).
"""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from kubernetes_access import KubernetesAccess
from local_server import QuietHandler, local_server
from node_namespace import HOST_ADDRESS
from tls_files import server_context

GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
_NAME = "external-metrics"


@contextlib.contextmanager
def external_metrics(cluster: KubernetesAccess, values: dict[str, int]) -> Iterator[None]:
    """The API is there until the end; `values` are what it says of each metric, at any time."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name that http.server looks for
            metric = self.path.partition("?")[0].rpartition("/")[2]
            if metric == VERSION:
                self._answer(HTTPStatus.OK, _discovery())
            elif metric in values:
                self._answer(HTTPStatus.OK, _list(metric, values[metric]))
            else:
                self._answer(HTTPStatus.NOT_FOUND, {})

        def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

    with local_server(Handler, host=HOST_ADDRESS, tls=server_context("first")) as address:
        objects = "\n---\n".join(json.dumps(each) for each in _objects(int(address.rpartition(":")[2])))
        try:
            cluster.kubectl("apply", "-f", "-", stdin=objects)
            cluster.kubectl("wait", "--for=condition=Available", f"apiservice/{VERSION}.{GROUP}", "--timeout=60s")
            yield
        finally:
            # An API that does not answer would keep namespaces from being deleted.
            cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=objects)


def _discovery() -> dict[str, Any]:
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": []}


def _list(metric: str, value: int) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    item = {"metricName": metric, "metricLabels": {}, "timestamp": now, "value": str(value)}
    return {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": [item]}


def _objects(port: int) -> list[dict[str, Any]]:
    metadata = {"name": _NAME, "namespace": "kube-system"}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 443}]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": _NAME}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [HOST_ADDRESS]}],
            "ports": [{"name": "", "port": port}],
        },
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
                "service": metadata,
            },
        },
    ]
