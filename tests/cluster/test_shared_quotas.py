"""Gateways in a cluster share tenants' quotas through a Valkey or Redis server outside of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from installation import NAMESPACE, Installation, request_status
from node_namespace import HOST_ADDRESS
from quota_server import QuotaServer
from single_node import SingleNode

LIMIT = 20
SECRET = "quota-store"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[QuotaServer]:
    server = QuotaServer(tmp_path, host=HOST_ADDRESS)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def gateways(node: SingleNode) -> list[str]:
    """Base URL of each gateway."""
    pods = node.get("pods", "--namespace", NAMESPACE, "-l", "app.kubernetes.io/component=gateway")["items"]
    ends = [pod["status"]["podIP"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return [f"http://{address}:8000" for address in ends]


def limits_requests(url: str) -> bool:
    """Whether a gateway knows of the quota."""
    body = {"model": "tiny", "prompt": "Hello", "max_tokens": 1}
    headers = {"authorization": "Bearer sk-demo-reports"}
    reply = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60)
    return "x-ratelimit-limit-requests" in reply.headers


def used_up_at_both(node: SingleNode) -> bool:
    """Whether what a tenant used up at one gateway is used up at the other, too, which it asks once."""
    one, other = gateways(node)
    statuses: list[int] = []
    while 429 not in statuses and len(statuses) <= 2 * LIMIT:
        statuses.append(request_status(one))
    assert statuses[-1] == 429, statuses
    return request_status(other) == 429


def test_quota_used_up_at_one_gateway_is_used_up_at_the_other(
    installation: Installation, node: SingleNode, store: QuotaServer
) -> None:
    url = f"--from-literal=url={store.url}"
    node.kubectl("create", "secret", "generic", SECRET, "--namespace", NAMESPACE, url)
    limit = {"spec": {"limits": {"requestsPerMinute": LIMIT}}}
    engines = installation.pods("tiny")
    try:
        installation.upgrade(values={"gateway.quotas.secretName": SECRET})
        # Gateways are replaced; engines, which have no part in it, are not.
        assert installation.pods("tiny") == engines
        node.kubectl("patch", "tenant", "reports", "--type=merge", "-p", json.dumps(limit))
        node.wait_for(lambda: all(map(limits_requests, gateways(node))), limit_s=300, what="quota at all gateways")
        # Again, should a minute end in between; not often enough to use up a quota of the other's own.
        assert any(used_up_at_both(node) for _ in range(3))
        store.kill()
        node.kubectl("patch", "tenant", "reports", "--type=merge", "-p", '{"spec": {"limits": null}}')
        node.wait_for(
            lambda: {request_status(each) for each in gateways(node)} == {200},
            limit_s=300,
            what="service without the store",
        )
    finally:
        installation.upgrade()
        node.kubectl("delete", "secret", SECRET, "--namespace", NAMESPACE)
