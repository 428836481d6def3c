"""The end: what is uninstalled is gone, but for what is promised to stay."""

import json

from installation import NAMESPACE, Installation

CRDS = ["enginepools.proserve.dev", "priorityclasses.proserve.dev", "tenants.proserve.dev"]


def names(installation: Installation, *arguments: str) -> list[str]:
    return installation.cluster.kubectl("get", *arguments, "-o", "name").split()


def test_upgrade_keeps_resources_and_service(installation: Installation) -> None:
    before = installation.pods("tiny")
    installation.upgrade(**{"gateway.podAnnotations.upgraded": "yes"})
    assert installation.pods("tiny") == before
    installation.wait_ready("tiny")


def test_only_definitions_and_resources_stay(installation: Installation) -> None:
    node = installation.cluster
    node.kubectl("delete", "enginepools", "--all", "--timeout=30s")
    node.wait_for(lambda: names(installation, "pods") == [], limit_s=90, what="end of the engines")
    installation.uninstall()
    node.wait_for(lambda: names(installation, "pods", "-n", NAMESPACE) == [], limit_s=90, what="end of the release")
    kinds = "deployments,services,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets"
    everywhere = names(installation, kinds, "-A", "-l", "app.kubernetes.io/part-of=proserve")
    assert everywhere == []
    assert names(installation, "clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/part-of=proserve") == []
    assert {
        each.removeprefix("customresourcedefinition.apiextensions.k8s.io/") for each in names(installation, "crd")
    } == set(CRDS)
    assert names(installation, "tenants") != []


def test_nothing_waits_for_an_operator_that_is_gone(installation: Installation) -> None:
    node = installation.cluster
    pool = json.dumps(
        {
            "apiVersion": "proserve.dev/v1alpha1",
            "kind": "EnginePool",
            "metadata": {"name": "orphan", "namespace": NAMESPACE},
            "spec": {"model": {"name": "orphan", "uri": "generated://tiny"}},
        }
    )
    node.kubectl("apply", "-f", "-", stdin=pool)
    node.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")
    node.kubectl("delete", "crd", *CRDS, "--timeout=60s")
