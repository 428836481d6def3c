"""What happens to 60 streams while pods, nodes and the control plane come and go: nothing that a client could notice.

Deadlines are generous, because two cores run the whole cluster; what is tested is that nobody waits for something that
has gone.
"""

import asyncio
from collections.abc import Callable

import pytest

from installation import NAMESPACE, Installation
from single_node import SingleNode
from steady_load import Client, Load

CLIENTS = [
    Client(name="high", key="sk-demo-product", streams=20, first_token_s=10, output_token_s=1),
    Client(name="low", key="sk-demo-reports", streams=40, first_token_s=30, output_token_s=3),
]
TOKENS = 150
Disturbance = Callable[[Installation], None]


async def disturbed(installation: Installation, disturb: Disturbance, *, settle_s: float = 3) -> Load:
    """Load on the pool `tiny` before, during and after what `disturb` does."""
    load = Load(installation.http, CLIENTS, model="tiny", tokens=TOKENS)
    async with load.running():
        await load.all_open()
        await asyncio.to_thread(disturb, installation)
        await asyncio.sleep(settle_s)
    return load


def assert_nothing_lost(load: Load) -> None:
    assert load.failures() == []
    assert load.attainment("high") >= 0.99, [
        (each.status, each.problem, each.late_tokens) for each in load.outcomes if not each.attained
    ][:5]


def kill_an_engine(installation: Installation) -> None:
    victim = installation.pods("tiny")[0]
    installation.cluster.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    installation.wait_pods("tiny", 2)


def evict_an_engine(installation: Installation) -> None:
    """As `kubectl drain` does, through the eviction API; with one node a drain of all could never end."""
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


@pytest.mark.usefixtures("node")
async def test_no_stream_is_lost_when_gateways_are_replaced(installation: Installation) -> None:
    """Not through a port-forward, which ends with the pod that it goes to."""
    assert_nothing_lost(await disturbed(installation, roll_the_gateways))


async def test_gateways_serve_on_without_the_api_server(installation: Installation, node: SingleNode) -> None:
    load = Load(installation.http, CLIENTS, model="tiny", tokens=TOKENS)
    async with load.running():
        await load.all_open()
        node.stop_api_server()
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.to_thread(node.start_api_server)
    assert load.refused() == []
    assert_nothing_lost(load)
