"""60 streams while pods, nodes and the control plane come and go: nothing happens that a client could notice."""

import asyncio
from functools import partial

import pytest

from disturbed_service import CLIENTS, Disturbance, assert_nothing_lost, disturbed, load_on
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
    node.wait_for(lambda: victim not in installation.pods("tiny"), limit_s=30, what="eviction")
    installation.wait_pods("tiny", 2)


def roll_the_engines(installation: Installation) -> None:
    before = set(installation.pods("tiny"))
    installation.patch("tiny", {"engine": {"env": [{"name": "ROLLED", "value": "1"}]}})
    installation.cluster.wait_for(
        lambda: before.isdisjoint(installation.pods("tiny")), limit_s=150, what="rollout of the engines"
    )
    installation.wait_pods("tiny", 2)


def roll_the_gateways(installation: Installation) -> None:
    node = installation.cluster
    node.kubectl("rollout", "restart", "deployment/proserve-gateway", "--namespace", NAMESPACE)
    node.kubectl("rollout", "status", "deployment/proserve-gateway", "--namespace", NAMESPACE, "--timeout=150s")


def kill_the_operators(installation: Installation) -> None:
    node = installation.cluster
    component = "app.kubernetes.io/component=operator"
    node.kubectl("delete", "pod", "-l", component, "--namespace", NAMESPACE, "--grace-period=0", "--force")
    node.kubectl("rollout", "status", "deployment/proserve-operator", "--namespace", NAMESPACE, "--timeout=120s")


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
async def test_no_stream_is_lost(installation: Installation, disturb: Disturbance) -> None:
    assert_nothing_lost(await disturbed(installation, disturb))


def test_gain_of_the_load_is_shown_on_class_tenant_and_pool(installation: Installation) -> None:
    cluster = installation.cluster

    def shown(kind: str, name: str) -> bool:
        """Whether there are figures of the load, which are written once a minute."""
        gain = cluster.get(kind, name)["status"].get("gain", {})
        return int(gain.get("requests", 0)) >= sum(client.streams for client in CLIENTS if client.name == "high")

    for kind, name in (("ppc", "interactive"), ("ptn", "product"), ("epool", "tiny")):
        cluster.wait_for(partial(shown, kind, name), limit_s=150, what=f"gain of {kind} {name}")
        header, row = (line.split() for line in cluster.kubectl("get", kind, name).splitlines())
        assert {"GAIN", "SLO"} <= set(header)
        assert sum(each.endswith("%") for each in row) == 2
    cluster.kubectl("wait", "--for=condition=KeysResolved", "tenant/product", "--timeout=60s")

    def classes() -> set[str]:
        found = cluster.get("enginepool", "tiny")["status"]["classes"]
        return {each["className"] for each in found if each["requests"] > 0}

    cluster.wait_for(lambda: classes() == {"interactive", "batch"}, limit_s=150, what="gain of both classes")


@pytest.mark.usefixtures("node")
async def test_no_stream_is_lost_when_gateways_are_replaced(installation: Installation) -> None:
    """Not through a port-forward, which ends with the pod that it goes to."""
    assert_nothing_lost(await disturbed(installation, roll_the_gateways))


async def test_gateways_serve_on_without_the_api_server(installation: Installation, node: SingleNode) -> None:
    load = load_on(installation)
    async with load.running():
        await load.all_open()
        node.stop_api_server()
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.to_thread(node.start_api_server)
    assert load.refused() == []
    assert_nothing_lost(load)


async def test_no_stream_is_lost_when_nodes_are_drained(installation: Installation, node: SingleNode) -> None:
    """Everything moves to another node, and back."""

    def drain(leaving: str) -> None:
        node.kubectl("drain", leaving, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=400s")
        installation.wait_pods("tiny", 2)
        for component in ("gateway", "operator"):
            rollout = ("rollout", "status", f"deployment/proserve-{component}", "--timeout=400s")
            node.kubectl(*rollout, "--namespace", NAMESPACE)

    def there_and_back(_: Installation) -> None:
        with node.second_node() as second:
            drain(NODE.name)
            pods = node.get("pods", "--all-namespaces")["items"]
            assert {pod["spec"].get("nodeName") for pod in pods} == {second}
            node.kubectl("uncordon", NODE.name)
            drain(second)

    assert_nothing_lost(await disturbed(installation, there_and_back))
