"""The objects that an EnginePool stands for."""

from typing import Any

import pytest

from proserve_core.pools import EnginePool
from proserve_operator.desired import Object, desired_objects
from proserve_operator.names import HASH_ANNOTATION, child_name
from proserve_operator.settings import OperatorSettings, SettingsError, parse_interval, parse_labels
from resource_builders import endpoint_pool, engine_pool, parse

SETTINGS = OperatorSettings(engine_image="engine:1", emulator_image="emulator:1")


def pool(**spec: Any) -> EnginePool:
    return parse(engine_pool(**spec)).engine_pools[0]


def objects(made: EnginePool, *, settings: OperatorSettings = SETTINGS, **options: Any) -> dict[str, Object]:
    all_objects = desired_objects(made, uid="u", replicas=options.pop("replicas", 2), settings=settings, **options)
    return {each["kind"]: each for each in all_objects}


def template(made: EnginePool) -> Any:
    return objects(made)["Deployment"]["spec"]["template"]


def container(made: EnginePool) -> Any:
    return template(made)["spec"]["containers"][0]


def test_pool_is_a_deployment_behind_a_headless_service_with_a_disruption_budget() -> None:
    made = objects(pool())
    assert set(made) == {"Service", "PodDisruptionBudget", "Deployment"}
    assert {each["metadata"]["name"] for each in made.values()} == {"engine-tiny"}
    deployment = made["Deployment"]["spec"]
    assert deployment["replicas"] == 2
    selector = deployment["selector"]["matchLabels"]
    assert selector.items() <= deployment["template"]["metadata"]["labels"].items()
    assert made["Service"]["spec"]["clusterIP"] == "None"
    assert made["Service"]["spec"]["selector"] == selector
    assert made["PodDisruptionBudget"]["spec"] == {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": selector},
    }


def test_objects_go_with_their_pool() -> None:
    for each in objects(pool()).values():
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("EnginePool", "tiny", "u", True)


def test_endpoints_need_no_objects() -> None:
    (made,) = parse(endpoint_pool()).engine_pools
    assert desired_objects(made, uid="u", replicas=0, settings=SETTINGS) == []


def test_settings_of_the_pool_are_arguments_of_the_engine() -> None:
    made = container(
        pool(
            model={"name": "qwen", "uri": "hf://Qwen/Qwen2.5-7B", "maxModelLength": 8192},
            engine={
                "args": ["--tensor-parallel-size=2"],
                "scheduler": {"policy": "slide-batching"},
                "kvOffload": {"hostMemory": "16Gi"},
            },
        )
    )
    command = made["command"]
    assert command[:4] == ["proserve", "engine", "serve", "Qwen/Qwen2.5-7B"]
    options = dict(zip(command[4:-1:2], command[5:-1:2], strict=True))
    assert options["--policy"] == "slide-batching"
    assert options["--served-model-name"] == "qwen"
    assert options["--max-model-len"] == "8192"
    assert '"hostMemory":"16Gi"' in options["--kv-offload"]
    assert command[-1] == "--tensor-parallel-size=2"
    assert made["image"] == "engine:1"


def test_emulated_engine_serves_everything_on_one_port() -> None:
    made = objects(pool(engine={"runtime": "Emulated", "args": ["--speed", "4"]}))
    engine = made["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert engine["command"][:4] == ["proserve", "emulate", "--calibration", "cpu-tiny"]
    assert engine["command"][-2:] == ["--speed", "4"]
    assert engine["image"] == "emulator:1"
    ports = {port["name"]: (port["port"], port["targetPort"]) for port in made["Service"]["spec"]["ports"]}
    assert ports["http"] == (8000, "http")
    assert ports["capacity"] == (9400, "http")
    assert ports["capacity-https"][1] == "https"
    assert engine["readinessProbe"]["httpGet"]["port"] == 8000


def test_ready_means_model_loaded_and_capacity_served() -> None:
    made = container(pool(engine={"startLimit": "10m"}))
    assert made["startupProbe"]["httpGet"] == {"path": "/health", "port": 8000}
    assert made["startupProbe"]["failureThreshold"] * made["startupProbe"]["periodSeconds"] == 600
    assert made["readinessProbe"]["httpGet"] == {"path": "/capacity", "port": 9400}


KEYS = {"keys": {"secretKeyRef": {"name": "engine-keys", "key": "ours"}}}


@pytest.mark.parametrize("runtime", ["VLLM", "Emulated"])
def test_engines_that_ask_for_a_key_have_it_mounted_and_are_probed_and_drained_all_the_same(runtime: str) -> None:
    made = template(pool(engine={"runtime": runtime, **KEYS}))["spec"]
    (engine,) = made["containers"]
    (volume,) = (each for each in made["volumes"] if each["name"] == "keys")
    assert volume["secret"] == {"secretName": "engine-keys", "items": [{"key": "ours", "path": "keys"}]}
    (mount,) = (each for each in engine["volumeMounts"] if each["name"] == "keys")
    assert mount["readOnly"] is True
    file = f"{mount['mountPath']}/keys"
    drain = engine["lifecycle"]["preStop"]["exec"]["command"]
    for command in (engine["command"], drain):
        assert command[command.index("--key-file") + 1] == file
    assert engine["readinessProbe"]["httpGet"]["path"] == "/readyz"


TLS = {"tls": {"secretName": "engine-tls"}}


@pytest.mark.parametrize(("runtime", "ports"), [("VLLM", {"https", "capacity-https"}), ("Emulated", {"https"})])
def test_engines_with_a_certificate_serve_probe_and_drain_with_it(runtime: str, ports: set[str]) -> None:
    made = template(pool(engine={"runtime": runtime, **TLS}))["spec"]
    (engine,) = made["containers"]
    (volume,) = (each for each in made["volumes"] if each["name"] == "tls")
    assert volume["secret"]["secretName"] == "engine-tls"
    (mount,) = (each for each in engine["volumeMounts"] if each["name"] == "tls")
    files = {f"{mount['mountPath']}/{item['path']}": item["key"] for item in volume["secret"]["items"]}
    command = engine["command"]
    given = [files[command[command.index(option) + 1]] for option in ("--tls-cert", "--tls-key")]
    assert given == ["tls.crt", "tls.key"]
    assert "--tls" in engine["lifecycle"]["preStop"]["exec"]["command"]
    probes = [engine[name]["httpGet"]["scheme"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert probes == ["HTTPS"] * 3
    assert {port["name"] for port in engine["ports"]} == ports


@pytest.mark.parametrize("engine", [{}, TLS, {"runtime": "Emulated"}, {"runtime": "Emulated", **TLS}])
def test_service_finds_pods_with_and_without_a_certificate(engine: dict[str, Any]) -> None:
    """While a rollout gives TLS to a pool there are both; a port is in the slice of the pods that have its target."""
    ports = objects(pool(engine=engine))["Service"]["spec"]["ports"]
    targets = {port["name"]: port["targetPort"] for port in ports}
    for serves in ({}, TLS):
        (made,) = template(pool(engine={**engine, **serves}))["spec"]["containers"]
        there = {port["name"] for port in made["ports"]}
        found = {name for name, target in targets.items() if target in there}
        assert found == ({"https", "capacity-https"} if "https" in there else {"http", "capacity"})
    assert len({port["port"] for port in ports}) == len(ports)


def test_prometheus_checks_the_certificate_of_engines() -> None:
    monitor = objects(pool(engine=TLS), with_monitor=True)["ServiceMonitor"]
    for endpoint in monitor["spec"]["endpoints"]:
        assert endpoint["scheme"] == "https"
        authority = {"secret": {"name": "engine-tls", "key": "ca.crt"}}
        assert endpoint["tlsConfig"] == {"ca": authority, "serverName": "engine-tiny.default.svc"}
    assert [each["port"] for each in monitor["spec"]["endpoints"]] == ["capacity-https", "https"]


def test_prometheus_is_told_the_key_of_engines() -> None:
    monitor = objects(pool(engine=KEYS), with_monitor=True)["ServiceMonitor"]
    for endpoint in monitor["spec"]["endpoints"]:
        assert endpoint["authorization"] == {"credentials": {"name": "engine-keys", "key": "ours"}}


def test_engine_drains_before_it_is_stopped_and_gets_the_time_for_it() -> None:
    made = template(pool(drain={"gracePeriod": "90s"}))
    command = made["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command == ["proserve", "engine", "drain", "--capacity-port", "9400", "--grace", "90s"]
    assert made["spec"]["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize(
    ("rollout", "update"),
    [
        ({}, {"maxSurge": 1, "maxUnavailable": 0}),
        ({"rollout": {"strategy": "Replace"}}, {"maxSurge": 0, "maxUnavailable": 1}),
    ],
)
def test_rollout_keeps_capacity_unless_there_is_no_spare_engine(
    rollout: dict[str, Any], update: dict[str, int]
) -> None:
    assert objects(pool(**rollout))["Deployment"]["spec"]["strategy"]["rollingUpdate"] == update


def test_pods_pass_pod_security_restricted() -> None:
    made = template(pool())["spec"]
    assert made["securityContext"]["runAsNonRoot"] is True
    assert made["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = made["containers"][0]["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in made["containers"][0]["volumeMounts"]}
    assert mounts.keys() == {"/cache", "/tmp", "/dev/shm"}
    assert {volume["name"] for volume in made["volumes"]} == set(mounts.values())


def test_pod_settings_reach_the_pod() -> None:
    made = template(
        pool(
            resources={"limits": {"nvidia.com/gpu": 1}},
            engine={
                "env": [
                    {"name": "HOME", "value": "/elsewhere"},
                    {"name": "HF_TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}},
                ]
            },
            pod={
                "nodeSelector": {"gpu": "h100"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "imagePullSecrets": ["registry"],
                "runtimeClassName": "nvidia",
                "sharedMemory": "16Gi",
                "modelCache": {"claimName": "models"},
            },
        )
    )["spec"]
    assert made["nodeSelector"] == {"gpu": "h100"}
    assert made["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert made["imagePullSecrets"] == [{"name": "registry"}]
    assert made["runtimeClassName"] == "nvidia"
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in made["volumes"]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "models"}} in made["volumes"]
    engine = made["containers"][0]
    assert engine["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    environment = {each["name"]: each.get("value", each.get("valueFrom")) for each in engine["env"]}
    assert environment["HOME"] == "/elsewhere"
    assert environment["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert len(environment) == len(engine["env"])


def test_template_of_the_pool_is_laid_over_and_cannot_hide_the_pods() -> None:
    overlay = {
        "metadata": {"labels": {"team": "a", "proserve.dev/pool": "other"}},
        "spec": {"containers": [{"name": "engine", "workingDir": "/work"}, {"name": "sidecar", "image": "s"}]},
    }
    made = template(pool(pod={"template": overlay}))
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["labels"]["proserve.dev/pool"] == "tiny"
    engine, sidecar = made["spec"]["containers"]
    assert (engine["workingDir"], engine["image"], sidecar["image"]) == ("/work", "engine:1", "s")


def test_only_gateways_and_the_scraper_reach_engines() -> None:
    settings = OperatorSettings(gateway_labels={"app": "gateway"}, gateway_namespace="front", scraper_namespace="watch")
    policy = objects(pool(), settings=settings)["NetworkPolicy"]["spec"]
    gateway, scraper = (rule["from"][0] for rule in policy["ingress"])
    assert gateway["podSelector"] == {"matchLabels": {"app": "gateway"}}
    assert gateway["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "front"}}
    assert scraper == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watch"}}}
    assert policy["policyTypes"] == ["Ingress"]


def test_prometheus_finds_engines_where_its_operator_is() -> None:
    monitor = objects(pool(), with_monitor=True)["ServiceMonitor"]
    assert monitor["spec"]["selector"] == {
        "matchLabels": objects(pool())["Deployment"]["spec"]["selector"]["matchLabels"]
    }


def test_prometheus_reads_engines_as_often_as_asked_and_not_at_all_where_monitors_are_off() -> None:
    asked = objects(pool(), settings=OperatorSettings(monitor_interval="30s"), with_monitor=True)
    assert {each["interval"] for each in asked["ServiceMonitor"]["spec"]["endpoints"]} == {"30s"}
    unasked = objects(pool(), with_monitor=True)
    assert all("interval" not in each for each in unasked["ServiceMonitor"]["spec"]["endpoints"])
    assert "ServiceMonitor" not in objects(pool(), settings=OperatorSettings(monitors=False), with_monitor=True)


@pytest.mark.parametrize("text", ["15", "0s", "1.5s", "s", "15 s", "1d"])
def test_interval_that_prometheus_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--monitor-interval: expected a time such as '15s'"):
        parse_interval("--monitor-interval", text)


def test_monitor_has_the_labels_that_prometheus_looks_for_beside_the_pools() -> None:
    settings = OperatorSettings(monitor_labels={"release": "prometheus"})
    made = objects(pool(), settings=settings, with_monitor=True)
    labels = made["ServiceMonitor"]["metadata"]["labels"]
    assert labels == {"release": "prometheus", **made["Deployment"]["metadata"]["labels"]}


def test_same_pool_gives_the_same_objects_and_another_one_other_marks() -> None:
    def mark(made: EnginePool) -> str:
        text: str = objects(made)["Deployment"]["metadata"]["annotations"][HASH_ANNOTATION]
        return text

    assert objects(pool()) == objects(pool())
    assert mark(pool()) != mark(pool(engine={"args": ["--x"]}))


@pytest.mark.parametrize("name", ["tiny", "0", "a" * 56, "a" * 57, "a" * 63])
def test_names_of_services_begin_with_a_letter_and_fit(name: str) -> None:
    made = child_name(name)
    assert made[0].isalpha()
    assert len(made) <= 63


def test_long_names_stay_different() -> None:
    assert child_name("a" * 63) != child_name("a" * 62 + "b")


def test_labels_on_the_command_line() -> None:
    assert parse_labels("--gateway-labels", "app=gateway,tier=") == {"app": "gateway", "tier": ""}
    with pytest.raises(SettingsError, match="--gateway-labels: expected labels such as"):
        parse_labels("--gateway-labels", "gateway")
