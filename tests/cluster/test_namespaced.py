"""A release that looks after one namespace: with the rights of that mode alone, everything there works."""

import json
from typing import Any

from installation import NAMESPACE, Installation, request_status
from single_node import SingleNode

ELSEWHERE = "elsewhere"


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


def asked(node: SingleNode) -> list[dict[str, Any]]:
    """What operator and gateway have asked of the API server."""
    accounts = (f"{NAMESPACE}:proserve-{component}" for component in ("operator", "gateway"))
    return [event for account in accounts for event in node.requests_of(account)]


def audit_id(event: dict[str, Any]) -> str:
    return str(event["auditID"])


def test_one_namespace_is_looked_after_and_no_other(installation: Installation, node: SingleNode) -> None:
    def leaving() -> list[str]:
        pods = node.get("pods", "--namespace", NAMESPACE)["items"]
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" in pod["metadata"]]

    node.kubectl("create", "namespace", ELSEWHERE)
    try:
        installation.upgrade(values={"watchNamespaces": "{default}"})
        node.wait_for(lambda: leaving() == [], limit_s=120, what="end of the pods before")
        before = set(map(audit_id, asked(node)))
        for namespace in ("default", ELSEWHERE):
            node.kubectl("apply", "-f", "-", stdin=pool(namespace))
        node.kubectl("wait", "--for=condition=Accepted", "enginepool/watched", "--timeout=60s")
        node.wait_for(
            lambda: node.run("kubectl", "get", "deployment", "engine-watched").returncode == 0,
            limit_s=60,
            what="objects of the pool",
        )
        assert request_status(installation.http) == 200
        assert "status" not in node.get("enginepool", "watched", "--namespace", ELSEWHERE)
        since = [event for event in asked(node) if audit_id(event) not in before]
        assert [event["requestURI"] for event in since if event.get("responseStatus", {}).get("code") == 403] == []
        kinds = {
            (event["objectRef"].get("namespace"), event["objectRef"]["resource"])
            for event in since
            if "resource" in event.get("objectRef", {})
        }
        assert {namespace for namespace, _ in kinds} <= {None, "default", NAMESPACE}
        assert {kind for namespace, kind in kinds if namespace is None} <= {"priorityclasses"}
    finally:
        node.kubectl("delete", "enginepool", "watched", "--ignore-not-found")
        node.kubectl("delete", "namespace", ELSEWHERE, "--timeout=60s")
        installation.upgrade()
