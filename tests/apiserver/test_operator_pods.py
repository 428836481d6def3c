"""The operator beside the controllers that make pods of Deployments: which pods come, which may not, which go first.

No node, so no pod runs; tests write down themselves that one does.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from acting_operator import acting
from api_server import ApiServer
from cluster_objects import Namespace, condition, install_definitions, message
from resource_builders import engine_pool

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def server(kubernetes_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    controllers = ("deployment-controller", "replicaset-controller", "resourcequota-controller")
    made = ApiServer(kubernetes_programs, tmp_path_factory.mktemp("pods"), controllers=controllers)
    install_definitions(made)
    yield made
    made.end()


@pytest.fixture
async def namespace(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Namespace]:
    """A namespace that an operator looks after."""
    made = Namespace(server)
    async with acting(server, made.name, monkeypatch):
        yield made


async def test_quota_that_leaves_no_room_for_pods_is_told_in_the_pool(namespace: Namespace) -> None:
    await namespace.kubectl("create", "quota", "none", "--hard=pods=0")
    await namespace.until("quota", "none", lambda body: "pods" in body.get("status", {}).get("hard", {}))
    await namespace.apply(engine_pool("tiny"))
    pool = await namespace.until("epool", "tiny", lambda body: condition(body, "Ready") == ("False", "PodsRefused"))
    assert "exceeded quota: none" in message(pool, "Ready")
    events = await namespace.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
    assert "PodsRefused" in events.split()
    await namespace.kubectl("delete", "quota", "none")
    await namespace.until("epool", "tiny", lambda body: condition(body, "Ready") == ("False", "EnginesStarting"))


async def test_pods_pass_pod_security_restricted_unless_the_pool_asks_for_more(namespace: Namespace) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    await namespace.kubectl("label", "namespace", namespace.name, label)
    await namespace.apply(
        engine_pool("plain"),
        engine_pool(
            "cached", model={"name": "cached", "uri": "generated://tiny"}, pod={"modelCache": {"hostPath": "/models"}}
        ),
    )
    refused = ("False", "PodsRefused")
    pool = await namespace.until("epool", "cached", lambda body: condition(body, "Ready") == refused)
    assert 'violates PodSecurity "restricted' in message(pool, "Ready")
    assert "hostPath" in message(pool, "Ready")
    await namespace.until("deployment", "engine-plain", lambda body: body["status"].get("replicas") == 1)
