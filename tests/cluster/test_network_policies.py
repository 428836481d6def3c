"""The NetworkPolicies of a release and of its pools, enforced: who reaches which port of whom."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from installation import NAMESPACE, Installation, request_status
from single_node import SingleNode

SCRAPER_NAMESPACE = "monitoring"
GATEWAY_LABELS = {
    "app.kubernetes.io/name": "proserve",
    "app.kubernetes.io/instance": "proserve",
    "app.kubernetes.io/component": "gateway",
}
PROBE = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        continue
    print(target)
"""
EVERYTHING = {"engine", "gateway", "gateway, admin", "operator, admin"}
WITH_POLICIES = {
    "gateway": {"engine", "gateway"},
    "operator": {"gateway", "gateway, admin"},
    "scraper": EVERYTHING,
    "stranger": {"gateway"},
    "stranger with the labels of a gateway": {"gateway"},
}
WITHOUT = dict.fromkeys(WITH_POLICIES, EVERYTHING)


def pod(name: str, *, namespace: str, labels: dict[str, str], image: str) -> str:
    """Of somebody else's, that does nothing."""
    container = {"name": "main", "image": image, "command": ["sleep", "infinity"]}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
        }
    )


class Table:
    """Who reaches what: pods that try, and the ports that they try."""

    def __init__(self, installation: Installation, node: SingleNode) -> None:
        self._installation = installation
        self._node = node
        self._others = {
            "scraper": ("scraper", SCRAPER_NAMESPACE, {}),
            "stranger": ("stranger", "default", {}),
            "stranger with the labels of a gateway": ("impostor", "default", GATEWAY_LABELS),
        }

    def make_pods(self) -> None:
        for name, namespace, labels in self._others.values():
            text = pod(name, namespace=namespace, labels=labels, image=self._installation.image)
            self._node.kubectl("apply", "-f", "-", stdin=text)
        for name, namespace, _ in self._others.values():
            self._node.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, "--timeout=300s")

    def delete_pods(self) -> None:
        for name, namespace, _ in self._others.values():
            self._node.kubectl("delete", "pod", name, "--namespace", namespace, "--ignore-not-found")

    def wait_until(self, expected: dict[str, set[str]]) -> None:
        """The agent hears of pods and policies in a moment; after that nothing changes any more."""
        found: dict[str, set[str]] = {}

        def there() -> bool:
            found.update(self._reached())
            return found == expected

        try:
            self._node.wait_for(there, limit_s=300, what="such table")
        except AssertionError:
            assert found == expected
            raise

    def _reached(self) -> dict[str, set[str]]:
        """What each of them reaches. A pod of ours tries another one of its kind."""
        gateway, *_, other_gateway = self._pods("gateway")
        operator, *_, other_operator = self._pods("operator")
        (engine, *_) = self._installation.pods("tiny")
        tried = {
            "engine": self._node.pod_address(engine, 8000, namespace="default"),
            "gateway": self._node.pod_address(other_gateway, 8000, namespace=NAMESPACE),
            "gateway, admin": self._node.pod_address(other_gateway, 9090, namespace=NAMESPACE),
            "operator, admin": self._node.pod_address(other_operator, 9091, namespace=NAMESPACE),
        }
        assert set(tried) == EVERYTHING
        sources = {name: (made, namespace) for name, (made, namespace, _) in self._others.items()}
        sources |= {"gateway": (gateway, NAMESPACE), "operator": (operator, NAMESPACE)}
        return {name: self._reached_from(*source, tried) for name, source in sources.items()}

    def _reached_from(self, name: str, namespace: str, tried: dict[str, str]) -> set[str]:
        probe = ("--", "python3", "-c", PROBE, *tried.values())
        done = self._node.run("kubectl", "exec", name, "--namespace", namespace, *probe)
        # A pod of a release that was just changed may be on its way out.
        return {name for name, address in tried.items() if address in done.stdout.split()} or {done.stderr}

    def _pods(self, component: str) -> list[str]:
        selector = f"app.kubernetes.io/component={component}"
        found = self._node.get("pods", "--namespace", NAMESPACE, "-l", selector)["items"]
        return [each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"]]


@pytest.fixture(scope="module")
def table(installation: Installation, node: SingleNode) -> Iterator[Table]:
    made = Table(installation, node)
    node.kubectl("create", "namespace", SCRAPER_NAMESPACE)
    try:
        made.make_pods()
        yield made
    finally:
        made.delete_pods()
        node.kubectl("delete", "namespace", SCRAPER_NAMESPACE, "--timeout=300s")


def test_everybody_reaches_everything_where_nobody_enforces(table: Table) -> None:
    table.wait_until(WITHOUT)


def test_engines_and_admin_ports_are_reached_by_those_who_need_them(
    installation: Installation, node: SingleNode, table: Table, network_policy_programs: Path
) -> None:
    with node.enforced_network_policies(network_policy_programs):
        table.wait_until(WITH_POLICIES)
        node.wait_for(lambda: request_status(installation.http) == 200, limit_s=300, what="answer to a request")
        installation.upgrade(values={"networkPolicy.enabled": "false"})
        try:
            table.wait_until(WITHOUT)
        finally:
            installation.upgrade()
    # The agent leaves nothing to the tests after this one.
    table.wait_until(WITHOUT)
