"""An API of a group of its own that the API server passes requests on to, answered by a test (an APIService)."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

from kubernetes_access import KubernetesAccess
from local_server import LOOPBACK, QuietHandler, local_server
from tls_files import server_context

VERSION = "v1beta1"
Object = dict[str, Any]


@contextlib.contextmanager
def aggregated_api(
    cluster: KubernetesAccess,
    *,
    group: str,
    name: str,
    answer: Callable[[str], Object | None],
    resources: Sequence[Object] = (),
    host: str = LOOPBACK,
) -> Iterator[None]:
    """The API is there until the end. `answer` is given the last part of a path and gives the object to show; None:
    there is none. `name` is that of the Service in front of it, `host` where the API server reaches this process."""
    api = f"{group}/{VERSION}"
    discovery = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": list(resources)}

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name that http.server looks for
            asked = self.path.partition("?")[0].rpartition("/")[2]
            found = discovery if asked == VERSION else answer(asked)
            self.send_response(HTTPStatus.NOT_FOUND if found is None else HTTPStatus.OK)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({} if found is None else {"apiVersion": api, **found}).encode())

    with local_server(Handler, host=host, tls=server_context("first")) as address:
        port = int(address.rpartition(":")[2])
        made = "\n---\n".join(json.dumps(each) for each in _objects(group, name, host, port))
        try:
            cluster.kubectl("apply", "-f", "-", stdin=made)
            cluster.kubectl("wait", "--for=condition=Available", f"apiservice/{VERSION}.{group}", "--timeout=300s")
            yield
        finally:
            # An API that does not answer would keep namespaces from being deleted.
            cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=made)


def _objects(group: str, name: str, host: str, port: int) -> Iterator[Object]:
    metadata = {"name": name, "namespace": "kube-system"}
    service: Object = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    reference: Object = metadata
    if host == LOOPBACK:
        # No EndpointSlice may hold an address of loopback.
        yield {**service, "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}}
        reference = {**metadata, "port": port}
    else:
        yield {**service, "spec": {"ports": [{"port": 443}]}}
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [host]}],
            "ports": [{"name": "", "port": port}],
        }
    yield {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{VERSION}.{group}"},
        "spec": {
            "group": group,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": reference,
        },
    }
