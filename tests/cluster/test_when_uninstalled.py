"""The end: what is uninstalled is gone, but for what is promised to stay."""

import json

from installation import NAMESPACE, RELEASE, Installation

CRDS = ["enginepools.proserve.dev", "priorityclasses.proserve.dev", "tenants.proserve.dev"]
STAYS = {
    *(f"CustomResourceDefinition /{name}" for name in CRDS),
    "APIService /v1alpha1.proserve.dev",
    f"Lease {NAMESPACE}/{RELEASE}-operator",
    # What the user made.
    "PriorityClass /interactive",
    "PriorityClass /batch",
    "Tenant default/product",
    "Tenant default/reports",
    "Secret default/tenant-keys",
    # The namespace that was made for the release, and what Kubernetes puts into each.
    f"Namespace /{NAMESPACE}",
    f"ServiceAccount {NAMESPACE}/default",
    f"ConfigMap {NAMESPACE}/kube-root-ca.crt",
}


def test_only_what_is_promised_stays(installation: Installation) -> None:
    cluster = installation.cluster
    cluster.kubectl("delete", "enginepools", "--all", "--timeout=300s")
    engines = ("pods", "-l", "proserve.dev/pool")
    cluster.wait_for(lambda: cluster.get(*engines)["items"] == [], limit_s=300, what="end of the engines")
    installation.uninstall()

    def left() -> set[str]:
        return installation.objects() - installation.before - STAYS

    cluster.wait_for(lambda: left() == set(), limit_s=300, what=f"end of {left()}")
    assert installation.objects() >= STAYS


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
    node.kubectl("delete", "namespace", NAMESPACE, "--timeout=300s")
    node.kubectl("delete", "crd", *CRDS, "--timeout=300s")
