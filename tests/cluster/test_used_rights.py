"""Of the rights that the chart gives, each was needed by what the tests before did, and none was missing."""

from collections.abc import Iterator
from typing import Any

import pytest

from charts import render
from installation import NAMESPACE
from single_node import SingleNode

AFTER_A_MISSED_CHANGE = {(kind, "get") for kind in ("enginepools", "priorityclasses", "tenants")}
"""What only the audit of the operator asks for, and only when a watch has missed something."""


def granted(objects: list[dict[str, Any]], component: str) -> set[tuple[str, str]]:
    """Resource and verb of everything that the release lets a component do."""
    roles = [each for each in objects if each["kind"] in ("ClusterRole", "Role")]
    own = [role for role in roles if role["metadata"]["labels"]["app.kubernetes.io/component"] == component]
    return {
        (resource, verb)
        for role in own
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(events: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The same of what was asked."""
    for event in events:
        what = event.get("objectRef", {})
        if "resource" in what:
            subresource = f"/{what['subresource']}" if "subresource" in what else ""
            yield what["resource"] + subresource, event["verb"]
            if event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201:
                # Server-side apply of what is not there takes the right to create it, too.
                yield what["resource"], "create"


@pytest.mark.parametrize("component", ["operator", "gateway"])
@pytest.mark.usefixtures("installation")
def test_rights_are_as_many_as_needed(node: SingleNode, component: str) -> None:
    events = node.requests_of(f"{NAMESPACE}:proserve-{component}")
    refused = [event for event in events if event.get("responseStatus", {}).get("code") == 403]
    allowed = set(used([event for event in events if event not in refused]))
    # An API server that has just started refuses what it allows a moment later.
    assert set(used(refused)) - allowed == set()
    # As it is installed.
    values = {"monitoring": {"serviceMonitor": {"enabled": True}}, "networkPolicy": {"scraperNamespace": "monitoring"}}
    assert granted(render(node, values), component) - allowed - AFTER_A_MISSED_CHANGE == set()
