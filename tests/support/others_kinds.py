"""Kinds of other projects that our objects are of, or that the operator makes, without the software behind them."""

import json

import msgspec


class OthersKind(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to define it."""

    group: str
    version: str
    kind: str
    plural: str


SERVICE_MONITOR = OthersKind(
    group="monitoring.coreos.com", version="v1", kind="ServiceMonitor", plural="servicemonitors"
)
OTHERS_KINDS = (
    SERVICE_MONITOR,
    OthersKind(group="monitoring.coreos.com", version="v1", kind="PrometheusRule", plural="prometheusrules"),
    OthersKind(group="gateway.networking.k8s.io", version="v1", kind="HTTPRoute", plural="httproutes"),
)


def definition(of: OthersKind) -> str:
    """A CustomResourceDefinition that takes any object."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"kind": of.kind, "plural": of.plural, "singular": of.kind.lower(), "listKind": f"{of.kind}List"}
    # The API server wants a word about groups of the Kubernetes project.
    approved = {"api-approved.kubernetes.io": "https://example.com/tests"}
    return json.dumps(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{of.plural}.{of.group}", "annotations": approved},
            "spec": {
                "group": of.group,
                "names": names,
                "scope": "Namespaced",
                "versions": [{"name": of.version, "served": True, "storage": True, "schema": schema}],
            },
        }
    )
