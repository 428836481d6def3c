"""charts/proserve: what it makes is accepted by a real API server, and wrong values are refused with what to do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server import ApiServer
from chart_values import VALUES, WRONG
from charts import CRDS, PROSERVE, Refused, named, pod_specs, render

OTHERS_KINDS = (
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
)
CRD_NAMES = [f"{plural}.proserve.dev" for plural in ("enginepools", "priorityclasses", "tenants")]
ESTABLISHED = ("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")


def definition(group: str, version: str, kind: str, plural: str) -> str:
    """A CRD that takes any object, for kinds of other projects."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return json.dumps(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            # The API server wants a word about groups of the Kubernetes project.
            "metadata": {
                "name": f"{plural}.{group}",
                "annotations": {"api-approved.kubernetes.io": "https://example.com/tests"},
            },
            "spec": {
                "group": group,
                "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
                "scope": "Namespaced",
                "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
            },
        }
    )


@pytest.fixture(scope="module")
def cluster(kubernetes_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With kinds of other projects and the namespaces that values name; `serving` is as strict as can be."""
    server = ApiServer(kubernetes_programs, tmp_path_factory.mktemp("chart"))
    try:
        server.kubectl("create", "-f", "-", stdin="\n---\n".join(definition(*kind) for kind in OTHERS_KINDS))
        server.kubectl(*ESTABLISHED)
        for namespace in ("serving", "team-a", "team-b"):
            server.kubectl("create", "namespace", namespace)
        server.kubectl("label", "namespace", "serving", "pod-security.kubernetes.io/enforce=restricted")
        server.kubectl("label", "namespace", "serving", "pod-security.kubernetes.io/warn=restricted")
        yield server
    finally:
        server.end()


@pytest.mark.parametrize("chart", [PROSERVE, CRDS], ids=lambda chart: chart.name)
def test_helm_lint_has_nothing_to_say(cluster: ApiServer, chart: Path) -> None:
    assert "0 chart(s) failed" in cluster.helm("lint", "--strict", str(chart))


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_api_server_accepts_every_object(cluster: ApiServer, values: dict[str, Any]) -> None:
    objects = render(cluster, values)
    text = yaml.safe_dump_all(objects)
    reply = cluster.run("kubectl", "apply", "--server-side", "--dry-run=server", "-f", "-", stdin=text)
    assert reply.returncode == 0, reply.stderr
    assert len(reply.stdout.splitlines()) == len(objects)
    # Unknown fields, and pods that Pod Security would refuse, are warnings of this API.
    assert "Warning" not in reply.stderr


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG)
def test_wrong_values_are_refused_with_what_to_do(cluster: ApiServer, values: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as refused:
        render(cluster, values)
    assert message in str(refused.value)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_pods_are_restricted(cluster: ApiServer, values: dict[str, Any]) -> None:
    specs = pod_specs(render(cluster, values))
    assert len(specs) == 3
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


def test_pods_refused_by_pod_security_would_be_noticed(cluster: ApiServer) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose"}}
    pod["spec"] = {"containers": [{"name": "a", "image": "a:1"}]}
    reply = cluster.run("kubectl", "create", "--dry-run=server", "-n", "serving", "-f", "-", stdin=json.dumps(pod))
    assert "violates PodSecurity" in reply.stderr


def test_watched_namespaces_limit_what_may_be_read(cluster: ApiServer) -> None:
    objects = render(cluster, {"watchNamespaces": ["team-a"]})
    for role in (each for each in objects if each["kind"] == "ClusterRole"):
        if "aggregate" not in json.dumps(role):
            assert {name for rule in role["rules"] for name in rule["resources"]} <= {
                "priorityclasses",
                "priorityclasses/status",
            }
    assert named(objects, "Role", "serving-proserve-gateway")["metadata"]["namespace"] == "team-a"
    # Where events about PriorityClasses are kept.
    assert named(objects, "Role", "serving-proserve-operator-events")["metadata"]["namespace"] == "default"
    for component in ("operator", "gateway"):
        (container,) = named(objects, "Deployment", f"proserve-{component}")["spec"]["template"]["spec"]["containers"]
        assert "--namespace=team-a" in container["args"]


@pytest.mark.parametrize(("tls", "protocol"), [("", "kubernetes.io/h2c"), ("gateway-tls", None)])
def test_grpc_port_says_plain_only_where_it_is(cluster: ApiServer, tls: str, protocol: str | None) -> None:
    service = named(render(cluster, {"gateway": {"tls": {"secretName": tls}}}), "Service", "proserve-gateway")
    (port,) = (each for each in service["spec"]["ports"] if each["name"] == "grpc")
    assert port.get("appProtocol") == protocol


def test_monitors_of_engines_get_the_labels_of_the_others(cluster: ApiServer) -> None:
    objects = render(cluster, {"monitoring": {"serviceMonitor": {"labels": {"release": "prometheus", "a": "b"}}}})
    (container,) = named(objects, "Deployment", "proserve-operator")["spec"]["template"]["spec"]["containers"]
    assert "--monitor-labels=a=b,release=prometheus" in container["args"]


def test_release_has_a_lease_of_its_own_and_may_change_no_other(cluster: ApiServer) -> None:
    objects = render(cluster, {}, release="second")
    (container,) = named(objects, "Deployment", "second-proserve-operator")["spec"]["template"]["spec"]["containers"]
    assert "--lease-name=second-proserve-operator" in container["args"]
    rules = named(objects, "Role", "second-proserve-operator-lease")["rules"]
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in rules] == [
        (["create"], None), (["get", "update"], ["second-proserve-operator"]),
    ]  # fmt: skip


def test_replicas_are_left_to_the_autoscaler(cluster: ApiServer) -> None:
    objects = render(cluster, VALUES["everything on"])
    assert "replicas" not in named(objects, "Deployment", "proserve-gateway")["spec"]
    assert named(objects, "HorizontalPodAutoscaler", "proserve-gateway")["spec"]["maxReplicas"] == 8


def test_image_is_what_the_values_say(cluster: ApiServer) -> None:
    values = {"image": {"repository": "registry.example.com/proserve", "tag": "1.2", "digest": f"sha256:{'b' * 64}"}}
    images = {container["image"] for spec in pod_specs(render(cluster, values)) for container in spec["containers"]}
    assert images == {f"registry.example.com/proserve@sha256:{'b' * 64}"}


def test_install_brings_the_kinds_and_upgrade_keeps_them_current(cluster: ApiServer) -> None:
    cluster.helm("install", "proserve", str(PROSERVE), "-n", "serving")
    cluster.kubectl(*ESTABLISHED)
    try:
        # As if an older chart had installed it.
        older = [{"op": "remove", "path": "/spec/names/shortNames"}]
        cluster.kubectl("patch", "crd", CRD_NAMES[0], "--type=json", "-p", json.dumps(older))
        cluster.helm("upgrade", "proserve", str(PROSERVE), "-n", "serving", "--force-conflicts")
        assert cluster.get("crd", CRD_NAMES[0])["spec"]["names"]["shortNames"] == ["epool"]
    finally:
        cluster.helm("uninstall", "proserve", "-n", "serving")
    left = cluster.kubectl(
        "get", "all,roles,rolebindings,serviceaccounts,networkpolicies,pdb", "-n", "serving", "-o", "name"
    )
    assert left == ""
    kinds = "clusterroles,clusterrolebindings"
    assert cluster.kubectl("get", kinds, "-l", "app.kubernetes.io/part-of=proserve", "-o", "name") == ""
    assert {each["metadata"]["name"] for each in cluster.get("crd")["items"]} >= set(CRD_NAMES)
    # What stayed is taken over by the next release of that name.
    cluster.helm("install", "proserve", str(PROSERVE), "-n", "serving")
    cluster.helm("uninstall", "proserve", "-n", "serving")


@pytest.fixture(scope="module")
def installed(cluster: ApiServer) -> Iterator[ApiServer]:
    """With a release that serves the whole cluster."""
    cluster.helm("install", "rights", str(PROSERVE), "-n", "serving", "--set=crds.install=false")
    yield cluster
    cluster.helm("uninstall", "rights", "-n", "serving")


def may(cluster: ApiServer, component: str, *what: str) -> bool:
    """Whether a component of that release may do it."""
    who = f"--as=system:serviceaccount:serving:rights-proserve-{component}"
    return cluster.run("kubectl", "auth", "can-i", *what, who).stdout.strip() == "yes"


OPERATOR_MAY = [
    ("patch", "enginepools.proserve.dev", "--subresource=status", "-n", "team-a"),
    ("patch", "priorityclasses.proserve.dev", "--subresource=status"),
    ("create", "deployments.apps", "-n", "team-a"),
    ("patch", "pods", "-n", "team-a"),
    ("update", "leases.coordination.k8s.io/rights-proserve-operator", "-n", "serving"),
]
OPERATOR_MAY_NOT = [
    ("get", "secrets", "-n", "team-a"),
    ("create", "pods", "-n", "team-a"),
    ("delete", "pods", "-n", "team-a"),
    ("update", "enginepools.proserve.dev", "-n", "team-a"),
    ("delete", "tenants.proserve.dev", "-n", "team-a"),
    ("update", "leases.coordination.k8s.io", "-n", "serving"),
    ("update", "leases.coordination.k8s.io/rights-proserve-operator", "-n", "team-a"),
    ("create", "clusterroles.rbac.authorization.k8s.io"),
]


@pytest.mark.parametrize("what", OPERATOR_MAY, ids=" ".join)
def test_operator_may(installed: ApiServer, what: tuple[str, ...]) -> None:
    assert may(installed, "operator", *what)


@pytest.mark.parametrize("what", OPERATOR_MAY_NOT, ids=" ".join)
def test_operator_may_not(installed: ApiServer, what: tuple[str, ...]) -> None:
    assert not may(installed, "operator", *what)


def test_gateway_reads_and_changes_nothing(installed: ApiServer) -> None:
    for kind in ("tenants.proserve.dev", "secrets", "endpointslices.discovery.k8s.io"):
        assert may(installed, "gateway", "watch", kind, "-n", "team-a")
        for verb in ("create", "update", "patch", "delete"):
            assert not may(installed, "gateway", verb, kind, "-n", "team-a")
