"""charts/proserve: what it makes is accepted by a real API server, and wrong values are refused with what to do."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.core
import yaml

from api_server import ApiServer
from chart_values import VALUES, WRONG
from charts import CRDS, PROSERVE, Refused, container, named, package_older, pod_specs, render
from others_kinds import OTHERS_KINDS, definition
from proserve_cli.main import app
from resource_builders import engine_pool

EXAMPLES = Path(__file__).parents[2] / "examples"
CRD_NAMES = [f"{plural}.proserve.dev" for plural in ("enginepools", "priorityclasses", "tenants")]
ESTABLISHED = ("wait", "--for=condition=Established", "--timeout=300s", "crd", "--all")


@pytest.fixture(scope="module")
def cluster(kubernetes_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With kinds of other projects and the namespaces that values name; `serving` is as strict as can be."""
    server = ApiServer(kubernetes_programs, tmp_path_factory.mktemp("chart"), controllers=["clusterrole-aggregation"])
    try:
        server.kubectl("create", "-f", "-", stdin="\n---\n".join(map(definition, OTHERS_KINDS)))
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


@pytest.fixture(scope="module", params=list(VALUES.values()), ids=list(VALUES))
def objects(cluster: ApiServer, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Of the chart with each of the values."""
    return render(cluster, request.param)


def test_api_server_accepts_every_object(cluster: ApiServer, objects: list[dict[str, Any]]) -> None:
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


def test_pods_are_restricted(objects: list[dict[str, Any]]) -> None:
    specs = pod_specs(objects)
    assert len(specs) == 3
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in spec["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in each["resources"]["limits"]


def test_user_of_pods_is_left_to_the_cluster_where_asked(cluster: ApiServer) -> None:
    for spec in pod_specs(render(cluster, VALUES["user that the cluster chooses"])):
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for spec in pod_specs(render(cluster, {})):
        assert spec["securityContext"]["runAsUser"] == 65532


def test_commands_take_what_the_pods_are_started_with(objects: list[dict[str, Any]]) -> None:
    proserve = typer.main.get_command(app)
    assert isinstance(proserve, typer.core.TyperGroup)
    for component in ("operator", "gateway"):
        assert container(objects, f"proserve-{component}")["command"] == ["proserve", component]
        arguments = list(container(objects, f"proserve-{component}")["args"])
        proserve.commands[component].make_context(component, arguments)


def test_pods_refused_by_pod_security_would_be_noticed(cluster: ApiServer) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose"}}
    pod["spec"] = {"containers": [{"name": "a", "image": "a:1"}]}
    reply = cluster.run("kubectl", "create", "--dry-run=server", "-n", "serving", "-f", "-", stdin=json.dumps(pod))
    assert "violates PodSecurity" in reply.stderr


def test_label_of_the_users_replaces_the_charts_own(cluster: ApiServer) -> None:
    objects = render(cluster, VALUES["namespaces"])
    for each in objects:
        if each["kind"] != "CustomResourceDefinition":
            labels = each["metadata"]["labels"]
            assert (labels["app.kubernetes.io/part-of"], labels["helm.sh/chart"]) == ("inference", "ours")


def test_labels_that_say_what_an_object_is_for_are_the_charts(cluster: ApiServer) -> None:
    theirs = {"proserve.dev/metrics": "no", "rbac.authorization.k8s.io/aggregate-to-view": "no"}
    objects = render(cluster, {"commonLabels": theirs})
    assert named(objects, "Service", "proserve-gateway-admin")["metadata"]["labels"]["proserve.dev/metrics"] == "true"
    view = named(objects, "ClusterRole", "serving:proserve-view")["metadata"]["labels"]
    assert view["rbac.authorization.k8s.io/aggregate-to-view"] == "true"


def test_maps_left_empty_are_as_if_not_given(cluster: ApiServer) -> None:
    """`podLabels:` with its entries commented out is a null."""
    nothing = {"commonLabels": None, "operator": {"podLabels": None}, "gateway": {"podLabels": None}}
    parts = {part: {"labels": None} for part in ("serviceMonitor", "prometheusRule", "dashboards")}
    assert render(cluster, {**nothing, "monitoring": parts}) == render(cluster, {})


def test_watched_namespaces_limit_what_may_be_read(cluster: ApiServer) -> None:
    objects = render(cluster, {"watchNamespaces": ["team-a"]})
    for role in (each for each in objects if each["kind"] == "ClusterRole"):
        if role["metadata"]["labels"]["app.kubernetes.io/component"] != "rbac":
            assert {name for rule in role["rules"] for name in rule["resources"]} == {"priorityclasses"}
            assert {verb for rule in role["rules"] for verb in rule["verbs"]} <= {"get", "list", "watch"}
    assert named(objects, "Role", "serving:proserve-gateway")["metadata"]["namespace"] == "team-a"
    for component in ("operator", "gateway"):
        assert "--namespace=team-a" in container(objects, f"proserve-{component}")["args"]


def test_releases_share_no_role_whatever_their_names_and_namespaces(cluster: ApiServer) -> None:
    def names(namespace: str, release: str) -> set[tuple[str, str]]:
        objects = render(cluster, {}, release=release, namespace=namespace)
        return {(each["kind"], each["metadata"]["name"]) for each in objects if each["kind"].startswith("ClusterRole")}

    assert names("llm", "prod-proserve") & names("llm-prod", "proserve") == set()


@pytest.mark.parametrize(("tls", "protocol"), [("", "kubernetes.io/h2c"), ("gateway-tls", None)])
def test_grpc_port_says_plain_only_where_it_is(cluster: ApiServer, tls: str, protocol: str | None) -> None:
    service = named(render(cluster, {"gateway": {"tls": {"secretName": tls}}}), "Service", "proserve-gateway")
    (port,) = (each for each in service["spec"]["ports"] if each["name"] == "grpc")
    assert port.get("appProtocol") == protocol


def test_monitors_of_engines_are_as_those_of_the_others(cluster: ApiServer) -> None:
    def options(**monitors: Any) -> set[str]:
        values = {"monitoring": {"serviceMonitor": monitors}, "networkPolicy": {"scraperNamespace": "monitoring"}}
        objects = render(cluster, values)
        given = container(objects, "proserve-operator")["args"]
        return {each for each in given if "monitor" in each and "scraper" not in each}

    asked = options(enabled=True, interval="1m", labels={"release": "prometheus", "a": "b"})
    assert asked == {"--monitor-interval=1m", "--monitor-labels=a=b,release=prometheus"}
    assert options() == {"--no-monitors"}


@pytest.mark.parametrize("enabled", [True, False])
def test_operator_that_makes_no_monitors_may_make_none(cluster: ApiServer, enabled: bool) -> None:
    values = {
        "monitoring": {"serviceMonitor": {"enabled": enabled}},
        "networkPolicy": {"scraperNamespace": "monitoring"},
    }
    role = named(render(cluster, values), "ClusterRole", "serving:proserve-operator")
    (verbs,) = (rule["verbs"] for rule in role["rules"] if "servicemonitors" in rule["resources"])
    assert set(verbs) == {"get", "list", "watch", "delete"} | ({"create", "patch"} if enabled else set())


def test_quota_of_cpu_can_be_met_by_every_pod(cluster: ApiServer) -> None:
    limits = {"resources": {"limits": {"cpu": "1"}}}
    for spec in pod_specs(render(cluster, dict.fromkeys(("operator", "gateway", "test"), limits))):
        assert [each["resources"]["limits"]["cpu"] for each in spec["containers"]] == ["1"]


def test_notes_lead_to_a_namespace_that_is_watched_and_a_certificate_for_another_name(cluster: ApiServer) -> None:
    def notes(*values: str) -> str:
        return cluster.helm("install", "a", str(PROSERVE), "-n", "serving", "--dry-run=client", *values)

    there = notes("--set=watchNamespaces={team-b,team-a}", "--set=gateway.tls.secretName=tls")
    assert "kubectl apply --namespace team-b -f examples/kubernetes.yaml" in there
    assert "kubectl get proserve --namespace team-b" in there
    assert "curl --insecure https://127.0.0.1:8000" in there
    everywhere = notes()
    assert "kubectl apply -f examples/kubernetes.yaml" in everywhere
    assert "kubectl get proserve --all-namespaces" in everywhere
    assert "curl http://127.0.0.1:8000" in everywhere


def test_release_has_a_lease_of_its_own_and_may_change_no_other(cluster: ApiServer) -> None:
    objects = render(cluster, {}, release="second")
    assert "--lease-name=second-proserve-operator" in container(objects, "second-proserve-operator")["args"]
    rules = named(objects, "Role", "second-proserve-operator-lease")["rules"]
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in rules] == [
        (["create"], None), (["get", "update"], ["second-proserve-operator"]),
    ]  # fmt: skip


def test_files_for_the_gateway_are_mounted(cluster: ApiServer) -> None:
    values = VALUES["client certificates"]
    spec = named(render(cluster, values), "Deployment", "proserve-gateway")["spec"]["template"]["spec"]
    assert values["gateway"]["extraVolumes"][0] in spec["volumes"]
    (mounted,) = [each["volumeMounts"] for each in spec["containers"]]
    assert values["gateway"]["extraVolumeMounts"][0] in mounted


def test_replicas_are_left_to_the_autoscaler(cluster: ApiServer) -> None:
    objects = render(cluster, VALUES["everything on"])
    assert "replicas" not in named(objects, "Deployment", "proserve-gateway")["spec"]
    assert named(objects, "HorizontalPodAutoscaler", "proserve-gateway")["spec"]["maxReplicas"] == 8


@pytest.mark.parametrize("component", ["operator", "gateway"])
def test_replicas_stand_on_different_nodes_where_that_is_possible(cluster: ApiServer, component: str) -> None:
    deployment = named(render(cluster, {}), "Deployment", f"proserve-{component}")["spec"]
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert spread["labelSelector"] == deployment["selector"]


def test_image_is_what_the_values_say(cluster: ApiServer) -> None:
    values = {"image": {"repository": "registry.example.com/proserve", "tag": "1.2", "digest": f"sha256:{'b' * 64}"}}
    images = {each["image"] for spec in pod_specs(render(cluster, values)) for each in spec["containers"]}
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


def test_older_chart_takes_nothing_from_users_if_the_definitions_stay(cluster: ApiServer, tmp_path: Path) -> None:
    """`helm rollback` would bring the older definitions, and fields that they lack are gone with the next write."""
    older = package_older(cluster, tmp_path, version="0.0.9", lacks=("spec", "pod", "sharedMemory"))
    release = ("proserve", "-n", "serving")

    def shared_memory() -> str:
        size: str = cluster.get("enginepool", "kept", "-n", "team-a")["spec"]["pod"]["sharedMemory"]
        return size

    cluster.helm("install", *release, str(PROSERVE))
    cluster.kubectl(*ESTABLISHED)
    try:
        pool = json.dumps(engine_pool("kept", pod={"sharedMemory": "8Gi"}))
        cluster.kubectl("apply", "-n", "team-a", "-f", "-", stdin=pool)
        cluster.helm("upgrade", *release, str(older), "--set=crds.install=false")
        cluster.kubectl("label", "enginepool", "kept", "-n", "team-a", "written=again")
        assert shared_memory() == "8Gi"
        cluster.helm("upgrade", *release, str(PROSERVE))
        assert shared_memory() == "8Gi"
    finally:
        cluster.run("kubectl", "delete", "enginepool", "kept", "-n", "team-a")
        cluster.helm("uninstall", *release)


CLASSES_FOR_ALL = ("--set", "rbac.everybodySeesClasses=true")


@pytest.fixture(scope="module")
def installed(cluster: ApiServer) -> Iterator[ApiServer]:
    """With a release that serves the whole cluster."""
    cluster.helm("install", "rights", str(PROSERVE), "-n", "serving", "--take-ownership", *CLASSES_FOR_ALL)
    yield cluster
    cluster.helm("uninstall", "rights", "-n", "serving")


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("kubernetes*.yaml")), ids=lambda file: file.stem)
def test_examples_are_accepted(installed: ApiServer, file: Path) -> None:
    installed.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(file))


def may(cluster: ApiServer, who: str, *what: str) -> bool:
    """Whether somebody may do it; a component of that release is a service account."""
    return cluster.run("kubectl", "auth", "can-i", *what, f"--as={who}").stdout.strip() == "yes"


CLASSES_FOR_EVERYBODY = [
    {"apiGroups": ["proserve.dev"], "resources": ["priorityclasses"], "verbs": ["get", "list", "watch"]}
]


def account(component: str) -> str:
    return f"system:serviceaccount:serving:rights-proserve-{component}"


def rights(rules: list[dict[str, Any]]) -> set[tuple[str, str, str, str]]:
    """Each single one: group, kind, verb, and the name of the one object, if there is only one."""
    return {
        (group, kind, verb, name)
        for rule in rules
        for group in rule.get("apiGroups", ())
        for kind in rule.get("resources", ())
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }


def has(cluster: ApiServer, who: str, namespace: str) -> set[tuple[str, str, str, str]]:
    """All that somebody may do in a namespace, as the API server sees it; but not what everybody may."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    arguments = ["create", "--validate=false", "-f", "-", "-o", "json", f"--as={who}"]
    found = json.loads(cluster.kubectl(*arguments, stdin=json.dumps(review)))["status"]["resourceRules"]
    return {right for right in rights(found) if right[0] not in ("authorization.k8s.io", "authentication.k8s.io")}


@pytest.mark.parametrize("component", ["operator", "gateway"])
def test_component_may_do_what_its_roles_say_and_nothing_more(installed: ApiServer, component: str) -> None:
    """That each of these is needed is shown by tests/cluster/test_used_rights.py."""
    roles = [
        each
        for each in render(installed, {}, release="rights")
        if each["kind"] in ("Role", "ClusterRole")
        and each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    everywhere = rights([rule for role in roles if role["kind"] == "ClusterRole" for rule in role["rules"]])
    everywhere |= rights(CLASSES_FOR_EVERYBODY)
    at_home = rights([rule for role in roles if role["kind"] == "Role" for rule in role["rules"]])
    assert has(installed, account(component), "team-a") == everywhere
    assert has(installed, account(component), "serving") == everywhere | at_home
    assert not {kind for _, kind, verb, _ in everywhere | at_home if "*" in kind + verb}


def test_operator_reads_no_secret_and_gateway_changes_nothing(installed: ApiServer) -> None:
    assert "secrets" not in {kind for _, kind, _, _ in has(installed, account("operator"), "serving")}
    assert {verb for _, _, verb, _ in has(installed, account("gateway"), "serving")} == {"get", "list", "watch"}


@pytest.mark.parametrize(
    ("role", "what", "allowed"),
    [
        ("view", ("list", "tenants.proserve.dev"), True),
        ("view", ("patch", "tenants.proserve.dev"), False),
        ("view", ("get", "priorityclasses.proserve.dev"), True),
        ("edit", ("patch", "priorityclasses.proserve.dev"), False),
        ("edit", ("create", "enginepools.proserve.dev"), True),
        ("edit", ("update", "enginepools.proserve.dev", "--subresource=scale"), True),
        ("edit", ("patch", "enginepools.proserve.dev", "--subresource=status"), False),
        ("admin", ("delete", "tenants.proserve.dev"), True),
        ("admin", ("patch", "priorityclasses.proserve.dev"), False),
    ],
)
def test_people_with_a_role_in_a_namespace(
    installed: ApiServer, role: str, what: tuple[str, ...], allowed: bool
) -> None:
    who = f"somebody-with-{role}"
    bound = ["rolebinding", who, f"--clusterrole={role}", f"--user={who}", "-n", "team-a", "-o", "yaml"]
    binding = installed.kubectl("create", *bound, "--dry-run=client")
    installed.kubectl("apply", "-f", "-", stdin=binding)
    # A controller of Kubernetes adds the rules of the chart's roles to the cluster's own, one after the other.
    for wanted in (("list", "tenants.proserve.dev"), *([what] if allowed else [])):
        granted = partial(may, installed, who, *wanted, "-n", "team-a")
        installed.wait_for(granted, limit_s=300, what="aggregated role")
    assert may(installed, who, *what, "-n", "team-a") is allowed
    assert not may(installed, who, "list", "tenants.proserve.dev", "-n", "team-b")
    # All three kinds in one go.
    installed.kubectl("get", "proserve", "-n", "team-a", f"--as={who}")


@pytest.mark.parametrize(
    ("rbac", "bound"),
    [({}, False), ({"everybodySeesClasses": True}, True), ({"everybodySeesClasses": True, "create": False}, False)],
)
def test_classes_are_for_everybody_to_see_only_if_the_values_say_so(
    cluster: ApiServer, rbac: dict[str, bool], bound: bool
) -> None:
    assert ("system:authenticated" in json.dumps(render(cluster, {"rbac": rbac}))) is bound
