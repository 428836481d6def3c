"""A HorizontalPodAutoscaler of Kubernetes has a pool's `replicas`, through the scale subresource."""

from external_metrics import external_metrics
from installation import EXAMPLES, Installation
from single_node import SingleNode

METRIC = "proserve_gateway_requests_in_flight"
AT_ONCE = '{"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}'


def test_autoscaler_decides_and_nobody_else(installation: Installation, node: SingleNode) -> None:
    in_flight = {METRIC: 32}
    with external_metrics(node, in_flight):
        installation.apply(EXAMPLES / "kubernetes-hpa.yaml")
        try:
            node.kubectl("patch", "hpa", "tiny", "-p", AT_ONCE)
            node.kubectl("wait", "--for=condition=ScalingActive", "hpa/tiny", "--timeout=300s")
            before = node.get("enginepool", "tiny")["metadata"]["generation"]
            in_flight[METRIC] = 48
            installation.wait_pods("tiny", 3)
            in_flight[METRIC] = 32
            installation.wait_pods("tiny", 2)
            pool = node.get("enginepool", "tiny")
            # Its two decisions, and no word against them.
            assert pool["metadata"]["generation"] == before + 2
            (active,) = (each for each in pool["status"]["conditions"] if each["type"] == "ScalingActive")
            assert (active["status"], active["reason"]) == ("False", "Fixed")
        finally:
            node.kubectl("delete", "hpa", "tiny")
