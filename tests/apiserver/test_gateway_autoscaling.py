"""The gateways' HorizontalPodAutoscaler of the chart, under Kubernetes' own controller."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from api_server import ApiServer
from charts import named, render
from cluster_objects import LIMIT_S
from pod_metrics import pod_metrics

NAME, NAMESPACE = "proserve-gateway", "serving"
CONTROLLERS = ("deployment-controller", "replicaset-controller", "horizontal-pod-autoscaler-controller")
VALUES = {
    "gateway": {
        "autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 4, "targetCPUUtilizationPercentage": 70},
        "resources": {"requests": {"cpu": "500m"}},
    }
}
AT_ONCE = '{"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}'


@pytest.fixture
def server(kubernetes_programs: Path, tmp_path: Path) -> Iterator[ApiServer]:
    made = ApiServer(kubernetes_programs, tmp_path, controllers=CONTROLLERS)
    yield made
    made.end()


class Gateways:
    """The pods of the release's gateways, which no kubelet runs."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.cpu_m: dict[str, int] = {}

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self._server.kubectl("--namespace", NAMESPACE, *arguments, stdin=stdin)

    def conditions(self) -> dict[str, str]:
        """Of the autoscaler: `True` or `False` by type."""
        status = json.loads(self.kubectl("get", "hpa", NAME, "-o", "json")).get("status", {})
        return {each["type"]: each["status"] for each in status.get("conditions", ())}

    def use(self, cpu_m: int) -> int:
        """Each gateway that is there runs, and uses so much; how many they are."""
        pods = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
        names = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        for name in set(names) - self.cpu_m.keys():
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            status = {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [ready]}
            self.kubectl("patch", "pod", name, "--subresource=status", "-p", json.dumps({"status": status}))
        used = dict.fromkeys(names, cpu_m)
        self.cpu_m.update(used)
        for name in self.cpu_m.keys() - used.keys():
            del self.cpu_m[name]
        return len(names)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + LIMIT_S
        while not holds():
            assert time.monotonic() < end_s, f"{what}; the autoscaler says {self.kubectl('describe', 'hpa', NAME)}"
            time.sleep(0.2)


def test_gateways_follow_their_cpu_within_the_limits_of_the_values(server: ApiServer) -> None:
    server.kubectl("create", "namespace", NAMESPACE)
    objects = render(server, VALUES, namespace=NAMESPACE)
    made = [named(objects, kind, NAME) for kind in ("Deployment", "HorizontalPodAutoscaler")]
    gateways = Gateways(server)
    with pod_metrics(server, container="gateway", cpu_m=gateways.cpu_m):
        gateways.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(made))
        gateways.kubectl("patch", "hpa", NAME, "-p", AT_ONCE)
        # At its target: 70% of 500m.
        gateways.until(lambda: gateways.use(350) == 2, "two gateways at first")
        calm = {"AbleToScale": "True", "ScalingActive": "True", "ScalingLimited": "False"}
        gateways.until(lambda: gateways.conditions() == calm, "an autoscaler that works")
        gateways.until(lambda: gateways.use(500) == 3, "a third gateway when two use nearly half more than they should")
        gateways.until(lambda: gateways.use(1000) == 4, "no more than the most")
        gateways.until(lambda: gateways.conditions()["ScalingLimited"] == "True", "a limit that is told")
        gateways.until(lambda: gateways.use(50) == 2, "no fewer than the least")
