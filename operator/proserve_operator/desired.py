"""From an EnginePool to the objects that should exist for it. Pure: the same pool gives the same objects.

One Deployment of engines, the headless Service by which gateways find them, a budget for voluntary disruptions, and
on request a NetworkPolicy and a ServiceMonitor. There is no ConfigMap: all settings are arguments of the engine, so
that a change of any rolls the pods.
"""

import math
from typing import Any

from proserve_core.pools import EnginePool, EngineRuntime, Rollout
from proserve_operator.drift import mark_of
from proserve_operator.engine_container import CAPACITY_PORT, ENCRYPTED, HTTP_PORT, PLAIN
from proserve_operator.names import HASH_ANNOTATION, child_name, labels, selector_labels, server_name
from proserve_operator.pod_template import pod_template
from proserve_operator.settings import OperatorSettings

Object = dict[str, Any]

NEEDED = ("Service", "NetworkPolicy", "Deployment")
"""Without them no engine: gateways find it by its Service, and it is open to nobody else from its first moment on."""
ROLLOUT_MARGIN_S = 600
"""Beyond the start limit, for scheduling and pulling the image, until a rollout counts as stuck."""
_STRATEGIES = {
    Rollout.SURGE: {"maxSurge": 1, "maxUnavailable": 0},
    Rollout.REPLACE: {"maxSurge": 0, "maxUnavailable": 1},
}


def desired_objects(
    pool: EnginePool, *, uid: str, replicas: int, settings: OperatorSettings, with_monitor: bool = False
) -> list[Object]:
    """Everything that should exist for the pool, in the order in which it is applied; nothing for `endpoints`.

    `uid` of the EnginePool makes it the owner, so that Kubernetes removes its objects with it. `replicas` are the
    engines that there should be now. `with_monitor`: the cluster has the Prometheus operator.

    Raises:
        OverlayError: the pool's `pod.template` cannot be laid over the generated one.
    """
    if pool.endpoints:
        return []
    made = [_service(pool)]
    if settings.gateway_labels:
        made.append(_network_policy(pool, settings))
    made += [workload(pool, replicas=replicas, settings=settings), _budget(pool)]
    if with_monitor and settings.monitors:
        made.append(_service_monitor(pool, settings))
    return [_finished(pool, uid, each) for each in made]


def workload(pool: EnginePool, *, replicas: int, settings: OperatorSettings) -> Object:
    """What keeps the pods of engines running."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": start_deadline_s(pool),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": dict(_STRATEGIES[pool.rollout])},
            "selector": {"matchLabels": selector_labels(pool.name)},
            "template": pod_template(pool, settings),
        },
    }


def start_deadline_s(pool: EnginePool) -> int:
    """How long an engine may take to become ready."""
    return math.ceil(pool.engine.start_limit_s) + ROLLOUT_MARGIN_S


def _service(pool: EnginePool) -> Object:
    ports = []
    for shift, (http, capacity) in enumerate((PLAIN, ENCRYPTED)):
        # By name: those that a pod lacks are not in its slice, so both kinds are found while a rollout replaces one.
        served = http if pool.engine.runtime is EngineRuntime.EMULATED else capacity
        ports += [
            {"name": http, "port": HTTP_PORT + shift, "targetPort": http, "protocol": "TCP"},
            {"name": capacity, "port": CAPACITY_PORT + shift, "targetPort": served, "protocol": "TCP"},
        ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "spec": {
            "clusterIP": "None",
            "selector": selector_labels(pool.name),
            "ports": ports,
        },
    }


def _budget(pool: EnginePool) -> Object:
    # Not minAvailable: with one engine that would keep its node from ever being drained. And an engine that is not
    # ready serves nobody: by default one that keeps crashing would use up the budget and stop every drain.
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector_labels(pool.name)},
        },
    }


def _network_policy(pool: EnginePool, settings: OperatorSettings) -> Object:
    gateway: Object = {"podSelector": {"matchLabels": dict(settings.gateway_labels)}}
    if settings.gateway_namespace is not None:
        gateway["namespaceSelector"] = _namespace(settings.gateway_namespace)
    ports = [{"port": HTTP_PORT, "protocol": "TCP"}, {"port": CAPACITY_PORT, "protocol": "TCP"}]
    ingress: list[Object] = [{"from": [gateway], "ports": ports}]
    if settings.scraper_namespace is not None:
        scraper = {"namespaceSelector": _namespace(settings.scraper_namespace)}
        ingress.append({"from": [scraper], "ports": ports})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "spec": {
            "podSelector": {"matchLabels": selector_labels(pool.name)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _namespace(name: str) -> Object:
    return {"matchLabels": {"kubernetes.io/metadata.name": name}}


def _service_monitor(pool: EnginePool, settings: OperatorSettings) -> Object:
    http, capacity = PLAIN if pool.engine.tls_secret is None else ENCRYPTED
    endpoints: list[Object] = [{"port": capacity, "path": "/metrics"}]
    if pool.engine.runtime is EngineRuntime.VLLM:
        endpoints.append({"port": http, "path": "/metrics"})
    if settings.monitor_interval is not None:
        endpoints = [{**each, "interval": settings.monitor_interval} for each in endpoints]
    if (secret := pool.engine.tls_secret) is not None:
        authority = {"secret": {"name": secret, "key": "ca.crt"}}
        name = server_name(pool.name, pool.namespace)
        encrypted = {"scheme": "https", "tlsConfig": {"ca": authority, "serverName": name}}
        endpoints = [{**each, **encrypted} for each in endpoints]
    if (keys := pool.engine.keys) is not None:
        authorization = {"credentials": {"name": keys.name, "key": keys.key}}
        endpoints = [{**each, "authorization": authorization} for each in endpoints]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "labels": dict(settings.monitor_labels),
        "spec": {"selector": {"matchLabels": selector_labels(pool.name)}, "endpoints": endpoints},
    }


def _finished(pool: EnginePool, uid: str, made: Object) -> Object:
    """With name, labels, owner, and a mark of what was asked for."""
    return {
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "metadata": {
            "name": child_name(pool.name),
            "namespace": pool.namespace,
            "labels": {**made.get("labels", {}), **labels(pool)},
            "annotations": {HASH_ANNOTATION: mark_of(made)},
            "ownerReferences": [
                {
                    "apiVersion": "proserve.dev/v1alpha1",
                    "kind": "EnginePool",
                    "name": pool.name,
                    "uid": uid,
                    "controller": True,
                }
            ],
        },
        "spec": made["spec"],
    }
