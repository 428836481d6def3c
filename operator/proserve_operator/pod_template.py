"""The pod template of a pool's engines. Its pods pass Pod Security `restricted` (unless a hostPath is asked for)."""

import math
from typing import Any

from proserve_core.pools import EnginePool
from proserve_operator.engine_container import PRE_STOP_MARGIN_S, TLS_ENTRIES, USER, container
from proserve_operator.names import CONTAINER, labels, selector_labels
from proserve_operator.overlay import overlaid
from proserve_operator.settings import OperatorSettings


def pod_template(pool: EnginePool, settings: OperatorSettings) -> dict[str, Any]:
    """A PodTemplateSpec, the pool's own overlay included.

    Raises:
        OverlayError: the overlay has not the form of a PodTemplateSpec.
    """
    generated: dict[str, Any] = {
        "metadata": {
            "labels": labels(pool),
            "annotations": {"kubectl.kubernetes.io/default-container": CONTAINER},
        },
        "spec": _spec(pool, settings),
    }
    made = overlaid(generated, pool.pod.template, path="spec.pod.template")
    # What finds the pods must hold whatever the overlay says.
    metadata = made.get("metadata", {})
    made["metadata"] = {**metadata, "labels": {**metadata.get("labels", {}), **selector_labels(pool.name)}}
    return made


def _spec(pool: EnginePool, settings: OperatorSettings) -> dict[str, Any]:
    pod = pool.pod
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": math.ceil(pool.drain_s) + PRE_STOP_MARGIN_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # A volume with a model of 100 GB is not walked at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector_labels(pool.name)},
            }
        ],
        "containers": [container(pool, settings)],
        "volumes": [
            _cache_volume(pool),
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pod.shared_memory}},
            *_keys_volume(pool),
            *_tls_volume(pool),
        ],
    }
    optional: dict[str, Any] = {
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [dict(toleration) for toleration in pod.tolerations],
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
        "serviceAccountName": pod.service_account,
        "priorityClassName": pod.priority_class,
        "runtimeClassName": pod.runtime_class,
    }
    return spec | {name: value for name, value in optional.items() if value}


def _keys_volume(pool: EnginePool) -> list[dict[str, Any]]:
    keys = pool.engine.keys
    if keys is None:
        return []
    # Mounted whole, not by subPath: so the kubelet replaces the file when the Secret changes.
    return [{"name": "keys", "secret": {"secretName": keys.name, "items": [{"key": keys.key, "path": "keys"}]}}]


def _tls_volume(pool: EnginePool) -> list[dict[str, Any]]:
    if pool.engine.tls_secret is None:
        return []
    items = [{"key": entry, "path": entry} for entry in TLS_ENTRIES]
    return [{"name": "tls", "secret": {"secretName": pool.engine.tls_secret, "items": items}}]


def _cache_volume(pool: EnginePool) -> dict[str, Any]:
    cache = pool.pod.model_cache
    if cache is None:
        return {"name": "cache", "emptyDir": {}}
    if cache.claim_name is not None:
        return {"name": "cache", "persistentVolumeClaim": {"claimName": cache.claim_name}}
    if cache.host_path is not None:
        return {"name": "cache", "hostPath": {"path": cache.host_path, "type": "DirectoryOrCreate"}}
    return {"name": "cache", "emptyDir": {"sizeLimit": cache.size}}
