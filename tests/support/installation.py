"""A release of charts/proserve in a test cluster, seen as its users see it."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from charts import PROSERVE
from environments import ROOT
from given_cluster import GivenCluster
from proserve_core.gain_report import REPORT_PATH, GainReport
from single_node import SingleNode

EXAMPLES = ROOT / "examples"
NAMESPACE = "proserve"
RELEASE = "proserve"
HTTP_PORT, ADMIN_PORT = 8000, 9090
"""Of a gateway."""
INSTALL_LIMIT = "600s"
TEST_KEY = "test-key"
"""Secret with the API key of `helm test`."""


def request_status(url: str) -> int:
    """Of a small request of the tenant `reports` to a gateway."""
    headers = {"authorization": "Bearer sk-demo-reports"}
    body = {"model": "tiny", "prompt": "Hello", "max_tokens": 1}
    return httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60).status_code


def _leaving(pod: dict[str, Any]) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


class Installation:
    """One release, in a namespace of its own with Pod Security `restricted`."""

    def __init__(self, cluster: SingleNode | GivenCluster, *, image: str) -> None:
        self.cluster = cluster
        self.image = image

    def install(self) -> None:
        """`helm install --wait`, as the README of the chart says."""
        self.before = self.objects()
        self.cluster.kubectl("create", "namespace", NAMESPACE)
        self.cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        self.cluster.helm("install", RELEASE, str(PROSERVE), *self._options({}))

    def upgrade(self, *, chart: Path = PROSERVE, values: Mapping[str, str] | None = None) -> None:
        """To that chart, and to these values beside those of the installation."""
        self.cluster.helm("upgrade", RELEASE, str(chart), *self._options(values or {}))

    def _options(self, values: Mapping[str, str]) -> list[str]:
        # A test machine has two cores.
        repository, tag = self.image.rsplit(":", 1)
        given = {
            "image.repository": repository,
            "image.tag": tag,
            "gateway.resources.requests.cpu": "100m",
            "test.model": "tiny",
            "test.apiKeySecret.name": TEST_KEY,
            "test.apiKeySecret.key": "key",
            **values,
        }
        if isinstance(self.cluster, SingleNode):
            # That cluster has the kind of Prometheus' operator, and the operator shall use all of its rights.
            given |= {"monitoring.serviceMonitor.enabled": "true", "networkPolicy.scraperNamespace": "monitoring"}
        settings = [f"--set={name}={value}" for name, value in given.items()]
        return ["--namespace", NAMESPACE, "--wait", f"--timeout={INSTALL_LIMIT}", *settings]

    def helm_test(self, key: str) -> subprocess.CompletedProcess[str]:
        """`helm test`, which sends a request with that API key. A pod that failed stays until the next one."""
        name = (TEST_KEY, "--namespace", NAMESPACE)
        self.cluster.kubectl("create", "secret", "generic", *name, f"--from-literal=key={key}")
        try:
            return self.cluster.run("helm", "test", RELEASE, "--namespace", NAMESPACE, "--logs", "--timeout=600s")
        finally:
            self.cluster.kubectl("delete", "secret", *name)

    def uninstall(self) -> None:
        """The release and its resources; what is left is the tests' to look at."""
        if self.cluster.run("helm", "status", RELEASE, "--namespace", NAMESPACE).returncode == 0:
            self.cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")

    def objects(self) -> set[str]:
        """`KIND NAMESPACE/NAME` of all that is in the cluster, but for events and what is in namespaces of others."""
        kinds = self.cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
        asked = ",".join(kind for kind in kinds if kind.partition(".")[0] not in ("events", "componentstatuses"))
        found = self.cluster.get(asked, "--all-namespaces")["items"]
        names = [(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]) for each in found]
        return {f"{kind} {space}/{name}" for kind, space, name in names if space in ("", "default", NAMESPACE)}

    def apply(self, *files: Path) -> None:
        for file in files:
            self.cluster.kubectl("apply", "-f", str(file))

    def patch(self, pool: str, spec: dict[str, Any]) -> None:
        """Change an EnginePool of the namespace default."""
        self.cluster.kubectl("patch", "enginepool", pool, "--type=merge", "-p", json.dumps({"spec": spec}))

    def wait_ready(self, pool: str, *, limit_s: float = 300) -> None:
        self.cluster.kubectl("wait", "--for=condition=Ready", f"enginepool/{pool}", f"--timeout={limit_s:g}s")

    def pods(self, pool: str) -> list[str]:
        """Names of a pool's pods that are not on their way out."""
        found = self.cluster.get("pods", "-l", f"proserve.dev/pool={pool}")["items"]
        return [pod["metadata"]["name"] for pod in found if not _leaving(pod)]

    def wait_pods(self, pool: str, count: int, *, limit_s: float = 300) -> None:
        """Until the pool has exactly that many pods, all ready."""

        def there() -> bool:
            found = self.cluster.get("pods", "-l", f"proserve.dev/pool={pool}")["items"]
            return len(found) == count and all(map(_ready, found))

        self.cluster.wait_for(there, limit_s=limit_s, what=f"{count} ready pods of {pool}")

    def gateways(self, port: int) -> list[str]:
        """HOST:PORT of each gateway that is not on its way out, at one of their ports, once all of them are ready."""
        own = ("--namespace", NAMESPACE, "-l", "app.kubernetes.io/component=gateway")

        def staying() -> list[dict[str, Any]]:
            return [each for each in self.cluster.get("pods", *own)["items"] if not _leaving(each)]

        self.cluster.wait_for(lambda: all(map(_ready, staying())), limit_s=300, what="gateways that are ready")
        names = [pod["metadata"]["name"] for pod in staying()]
        return [self.cluster.pod_address(name, port, namespace=NAMESPACE) for name in names]

    def gateway_reports(self) -> list[GainReport]:
        """What each gateway tells the operator."""
        answers = [httpx.get(f"http://{each}{REPORT_PATH}", timeout=60) for each in self.gateways(ADMIN_PORT)]
        return [msgspec.json.decode(answer.content, type=GainReport) for answer in answers]

    @property
    def http(self) -> str:
        """Base URL of the OpenAI API."""
        return f"http://{self.cluster.address(f'{RELEASE}-gateway', 'http', namespace=NAMESPACE)}"

    @property
    def grpc(self) -> str:
        return self.cluster.address(f"{RELEASE}-gateway", "grpc", namespace=NAMESPACE)
