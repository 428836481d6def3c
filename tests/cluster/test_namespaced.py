"""A release that looks after one namespace, with TLS and a key for its admin ports: with the rights of that mode alone,
everything there works."""

import json
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from installation import NAMESPACE, Installation
from single_node import SingleNode
from tls_files import DATA, client_context

ELSEWHERE = "elsewhere"
ADMIN_KEY = "admin-key-of-the-tests"
API_KEY = "sk-watched"
SECRETS = {
    "gateway-tls": ("tls", f"--cert={DATA / 'first-server.pem'}", f"--key={DATA / 'first-server.key'}"),
    "gateway-admin": ("generic", f"--from-literal=keys={ADMIN_KEY}"),
}
VALUES = {
    "watchNamespaces": "{default}",
    "gateway.tls.secretName": "gateway-tls",
    "gateway.admin.secretName": "gateway-admin",
}


def pool(namespace: str) -> str:
    return json.dumps(
        {
            "apiVersion": "proserve.dev/v1alpha1",
            "kind": "EnginePool",
            "metadata": {"name": "watched", "namespace": namespace},
            "spec": {
                "model": {"name": "watched", "uri": "generated://tiny"},
                "replicas": 0,
                "engine": {"runtime": "Emulated"},
            },
        }
    )


def tenant() -> str:
    key = {"secretKeyRef": {"name": "watched-keys", "key": "key"}}
    return json.dumps(
        {
            "apiVersion": "proserve.dev/v1alpha1",
            "kind": "Tenant",
            "metadata": {"name": "watched", "namespace": "default"},
            "spec": {"priorityClassName": "batch", "apiKeys": [key]},
        }
    )


def asked(node: SingleNode) -> list[dict[str, Any]]:
    """What operator and gateway have asked of the API server."""
    accounts = (f"{NAMESPACE}:proserve-{component}" for component in ("operator", "gateway"))
    return [event for account in accounts for event in node.requests_of(account)]


def audit_id(event: dict[str, Any]) -> str:
    return str(event["auditID"])


def trust() -> ssl.SSLContext:
    """Of the certificate's authority; its name is not the Service's."""
    context = client_context("first")
    context.check_hostname = False
    return context


@pytest.fixture(scope="module", autouse=True)
def asked_before(installation: Installation) -> Iterator[set[str]]:
    """The release as this file wants it, until its end; ids of all that was asked before, where somebody writes it
    down."""
    cluster = installation.cluster

    def leaving() -> list[str]:
        pods = cluster.get("pods", "--namespace", NAMESPACE)["items"]
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" in pod["metadata"]]

    for name, (kind, *content) in SECRETS.items():
        cluster.kubectl("create", "secret", kind, name, "--namespace", NAMESPACE, *content)
    try:
        installation.upgrade(values=VALUES)
        cluster.wait_for(lambda: leaving() == [], limit_s=300, what="end of the pods before")
        yield set(map(audit_id, asked(cluster))) if isinstance(cluster, SingleNode) else set()
    finally:
        installation.upgrade()
        cluster.kubectl("delete", "secret", *SECRETS, "--namespace", NAMESPACE)


def test_gateway_serves_tls_and_helm_test_speaks_it(installation: Installation) -> None:
    url = f"{installation.http.replace('http:', 'https:')}/v1/models"
    models = httpx.get(url, headers={"authorization": "Bearer sk-demo-reports"}, verify=trust(), timeout=60)
    assert "tiny" in [each["id"] for each in models.json()["data"]]
    answered = installation.helm_test("sk-demo-reports")
    assert answered.returncode == 0, answered.stdout + answered.stderr


def test_admin_ports_ask_for_the_key_which_the_operator_has(installation: Installation) -> None:
    cluster = installation.cluster
    pods = cluster.get("pods", "--namespace", NAMESPACE, "-l", "app.kubernetes.io/component=gateway")["items"]
    for pod in pods:
        report = f"http://{cluster.pod_address(pod['metadata']['name'], 9090, namespace=NAMESPACE)}/report"
        assert httpx.get(report, timeout=60).status_code == 401
        assert httpx.get(report, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=60).status_code == 200
    cluster.kubectl("create", "secret", "generic", "watched-keys", f"--from-literal=key={API_KEY}")
    cluster.kubectl("apply", "-f", "-", stdin=tenant())
    try:
        # Only a gateway knows that, and it says so at its admin port.
        cluster.kubectl("wait", "--for=condition=KeysResolved", "tenant/watched", "--timeout=300s")
    finally:
        cluster.kubectl("delete", "tenant/watched", "secret/watched-keys")


def test_one_namespace_is_looked_after_and_no_other(installation: Installation) -> None:
    cluster = installation.cluster
    cluster.kubectl("create", "namespace", ELSEWHERE)
    try:
        for namespace in ("default", ELSEWHERE):
            cluster.kubectl("apply", "-f", "-", stdin=pool(namespace))
        cluster.kubectl("wait", "--for=condition=Accepted", "enginepool/watched", "--timeout=300s")
        cluster.wait_for(
            lambda: cluster.run("kubectl", "get", "deployment", "engine-watched").returncode == 0,
            limit_s=300,
            what="objects of the pool",
        )
        assert "status" not in cluster.get("enginepool", "watched", "--namespace", ELSEWHERE)
    finally:
        cluster.kubectl("delete", "enginepool", "watched", "--ignore-not-found")
        cluster.kubectl("delete", "namespace", ELSEWHERE, "--timeout=300s")


def test_nothing_else_is_asked_for_than_the_mode_needs(node: SingleNode, asked_before: set[str]) -> None:
    since = [event for event in asked(node) if audit_id(event) not in asked_before]
    assert [event["requestURI"] for event in since if event.get("responseStatus", {}).get("code") == 403] == []
    kinds = {
        (event["objectRef"].get("namespace"), event["objectRef"]["resource"])
        for event in since
        if "resource" in event.get("objectRef", {})
    }
    assert {namespace for namespace, _ in kinds} <= {None, "default", NAMESPACE}
    assert ("default", "enginepools") in kinds
    assert {kind for namespace, kind in kinds if namespace is None} <= {"priorityclasses"}
