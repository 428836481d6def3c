"""120 streams while pods, nodes and the control plane come and go: nothing happens that a client could notice."""

import time
from functools import partial

import pytest

from disturbed_service import STREAMS, WANTED, Disturbance, Service
from installation import NAMESPACE, Installation
from node_settings import NODE
from single_node import SingleNode


def kill_an_engine(installation: Installation) -> None:
    victim = installation.pods("tiny")[0]
    installation.cluster.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    installation.wait_pods("tiny", 2)


def evict_an_engine(installation: Installation) -> None:
    """As `kubectl drain` does, through the eviction API."""
    node, victim = installation.cluster, installation.pods("tiny")[0]
    body = (
        f'{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{victim}", "namespace": "default"}}}}'
    )
    node.kubectl("create", "--raw", f"/api/v1/namespaces/default/pods/{victim}/eviction", "-f", "-", stdin=body)
    node.wait_for(lambda: victim not in installation.pods("tiny"), limit_s=300, what="eviction")
    installation.wait_pods("tiny", 2)


def roll_the_engines(installation: Installation) -> None:
    before = set(installation.pods("tiny"))
    installation.patch("tiny", {"engine": {"env": [{"name": "ROLLED", "value": str(time.time())}]}})
    installation.cluster.wait_for(
        lambda: before.isdisjoint(installation.pods("tiny")), limit_s=300, what="rollout of the engines"
    )
    installation.wait_pods("tiny", 2)


def roll_the_gateways(installation: Installation) -> None:
    node = installation.cluster
    node.kubectl("rollout", "restart", "deployment/proserve-gateway", "--namespace", NAMESPACE)
    node.kubectl("rollout", "status", "deployment/proserve-gateway", "--namespace", NAMESPACE, "--timeout=600s")


def kill_the_operators(installation: Installation) -> None:
    node = installation.cluster
    component = "app.kubernetes.io/component=operator"
    node.kubectl("delete", "pod", "-l", component, "--namespace", NAMESPACE, "--grace-period=0", "--force")
    node.kubectl("rollout", "status", "deployment/proserve-operator", "--namespace", NAMESPACE, "--timeout=600s")


def scale_down_and_up(installation: Installation) -> None:
    installation.cluster.kubectl("scale", "enginepool/tiny", "--replicas=1")
    installation.wait_pods("tiny", 1)
    installation.cluster.kubectl("scale", "enginepool/tiny", "--replicas=2")
    installation.wait_pods("tiny", 2)


@pytest.mark.parametrize(
    "disturb",
    [kill_an_engine, evict_an_engine, roll_the_engines, kill_the_operators, scale_down_and_up],
    ids=lambda disturb: disturb.__name__,
)
async def test_every_stream_ends_well_and_high_gets_what_it_was_promised(
    service: Service, disturb: Disturbance
) -> None:
    await service.disturbed(disturb)


def test_gain_of_the_load_is_shown_on_class_tenant_and_pool(service: Service, installation: Installation) -> None:
    cluster, names = installation.cluster, service.classes.names
    high = names["high"]

    def shown(kind: str, name: str) -> bool:
        """Whether there are figures of the load, which are written once a minute."""
        gain = cluster.get(kind, name)["status"].get("gain", {})
        return int(gain.get("requests", 0)) >= STREAMS["high"]

    for kind, name in (("ppc", high), ("ptn", high), ("epool", "tiny")):
        cluster.wait_for(partial(shown, kind, name), limit_s=300, what=f"gain of {kind} {name}")
        header, row = (line.split() for line in cluster.kubectl("get", kind, name).splitlines())
        assert {"GAIN", "SLO"} <= set(header)
        assert sum(each.endswith("%") for each in row) == 2
    attained = cluster.get("ppc", high)["status"]["gain"]["sloAttainment"]
    assert float(attained.removesuffix("%")) >= 100 * WANTED
    cluster.kubectl("wait", "--for=condition=KeysResolved", f"tenant/{high}", "--timeout=60s")

    def classes() -> set[str]:
        found = cluster.get("enginepool", "tiny")["status"]["classes"]
        return {each["className"] for each in found if each["requests"] > 0}

    cluster.wait_for(lambda: classes() >= set(names.values()), limit_s=300, what="gain of both classes")


@pytest.mark.usefixtures("node")
async def test_promise_is_kept_when_gateways_are_replaced(service: Service) -> None:
    """Not through a port-forward, which ends with the pod that it goes to."""
    await service.disturbed(roll_the_gateways)


async def test_gateways_serve_on_without_the_api_server(service: Service, node: SingleNode) -> None:
    def away(_: Installation) -> None:
        node.stop_api_server()
        try:
            time.sleep(10)
        finally:
            node.start_api_server()

    load = await service.disturbed(away)
    assert load.refused() == []


async def test_promise_is_kept_when_nodes_are_drained(
    service: Service, installation: Installation, node: SingleNode
) -> None:
    """Everything moves to another node, and back."""

    def drain(leaving: str) -> None:
        node.kubectl("drain", leaving, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=400s")
        installation.wait_pods("tiny", 2)
        for component in ("gateway", "operator"):
            rollout = ("rollout", "status", f"deployment/proserve-{component}", "--timeout=400s")
            node.kubectl(*rollout, "--namespace", NAMESPACE)

    with node.second_node() as second:

        def there_and_back(_: Installation) -> None:
            node.kubectl("uncordon", second)
            drain(NODE.name)
            pods = node.get("pods", "--all-namespaces")["items"]
            assert {pod["spec"].get("nodeName") for pod in pods} == {second}
            node.kubectl("uncordon", NODE.name)
            drain(second)

        await service.disturbed(there_and_back)
