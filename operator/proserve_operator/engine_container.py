"""The container of an engine: its command from the pool's settings, its probes, its way out.

Ready means that the model is loaded and capacity is served: the start-up probe asks the OpenAI server, which answers
when the model is loaded, and only then the readiness probe begins to ask for the capacity snapshot. On the way out
(`preStop`) the engine is told to drain and waits for running requests, at most the pool's grace period; what is left
is continued elsewhere by the gateway.
"""

import math
from typing import Any

import msgspec

from proserve_core.pools import EnginePool, EngineRuntime, EnvironmentVariable, ModelOrigin
from proserve_operator.names import CONTAINER
from proserve_operator.settings import OperatorSettings

HTTP_PORT = 8000
CAPACITY_PORT = 9400
CACHE = "/cache"
USER = 65532
PLAIN = ("http", "capacity")
ENCRYPTED = ("https", "capacity-https")
"""Names of the two ports tell gateways whether a pod speaks TLS: while a pool gets it, or loses it, some do."""
START_PERIOD_S = 5
KEYS_FOLDER = "/etc/proserve/keys"
KEY_FILE = f"{KEYS_FOLDER}/keys"
TLS_FOLDER = "/etc/proserve/tls"
TLS_ENTRIES = ("tls.crt", "tls.key")
"""Of a Secret of type `kubernetes.io/tls`."""
PRE_STOP_MARGIN_S = 30
"""After draining: for the engine to end by itself."""

_ENVIRONMENT = {
    # The root file system is read-only, and the user has no entry in the image's /etc/passwd.
    "HOME": CACHE,
    "USER": "proserve",
    "HF_HOME": f"{CACHE}/huggingface",
    "PROSERVE_CACHE": f"{CACHE}/proserve",
    "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
}


def container(pool: EnginePool, settings: OperatorSettings) -> dict[str, Any]:
    """The container `engine` of the pool's pods."""
    emulated = pool.engine.runtime is EngineRuntime.EMULATED
    capacity_port = HTTP_PORT if emulated else CAPACITY_PORT
    made: dict[str, Any] = {
        "name": CONTAINER,
        "image": pool.engine.image or (settings.emulator_image if emulated else settings.engine_image),
        "command": emulator_command(pool) if emulated else vllm_command(pool),
        "env": _environment(pool),
        "ports": _ports(pool),
        "startupProbe": {
            "httpGet": _probe(pool, "/health", HTTP_PORT),
            "periodSeconds": START_PERIOD_S,
            "timeoutSeconds": 5,
            "failureThreshold": math.ceil(pool.engine.start_limit_s / START_PERIOD_S),
        },
        "readinessProbe": {
            # A probe knows no key.
            "httpGet": _probe(pool, "/capacity" if pool.engine.keys is None else "/readyz", capacity_port),
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": _probe(pool, "/health", HTTP_PORT),
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"exec": {"command": drain_command(pool, capacity_port)}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "cache", "mountPath": CACHE},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    if pool.engine.keys is not None:
        made["volumeMounts"].append({"name": "keys", "mountPath": KEYS_FOLDER, "readOnly": True})
    if pool.engine.tls_secret is not None:
        made["volumeMounts"].append({"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True})
    if pool.pod.image_pull_policy is not None:
        made["imagePullPolicy"] = pool.pod.image_pull_policy
    resources = {
        name: dict(values)
        for name, values in (("limits", pool.resources.limits), ("requests", pool.resources.requests))
        if values
    }
    if resources:
        made["resources"] = resources
    return made


def vllm_command(pool: EnginePool) -> list[str]:
    """`proserve engine serve` with everything that the pool says; the pool's own arguments come last."""
    command = [
        "proserve", "engine", "serve", _model(pool),
        "--policy", pool.engine.batching_policy,
        "--capacity-host", "0.0.0.0", "--capacity-port", str(CAPACITY_PORT),
    ]  # fmt: skip
    if pool.engine.kv_offload is not None:
        command += ["--kv-offload", _json(pool.engine.kv_offload.to_mapping())]
    command += [*_key_file(pool), *_certificate(pool)]
    command += ["--host", "0.0.0.0", "--port", str(HTTP_PORT), "--served-model-name", pool.model.name]
    if pool.model.max_model_length is not None:
        command += ["--max-model-len", str(pool.model.max_model_length)]
    return [*command, *pool.engine.args]


def emulator_command(pool: EnginePool) -> list[str]:
    """`proserve emulate`: everything on one port."""
    command = [
        "proserve", "emulate", "--calibration", pool.calibration, "--policy", pool.engine.batching_policy,
        "--model", pool.model.name, "--host", "0.0.0.0", "--port", str(HTTP_PORT),
    ]  # fmt: skip
    if pool.engine.kv_offload is not None:
        command += ["--kv-offload", _json(pool.engine.kv_offload.to_mapping())]
    return [*command, *_key_file(pool), *_certificate(pool), *pool.engine.args]


def drain_command(pool: EnginePool, capacity_port: int) -> list[str]:
    """What `preStop` runs."""
    command = ["proserve", "engine", "drain", "--capacity-port", str(capacity_port), "--grace", f"{pool.drain_s:g}s"]
    if pool.engine.tls_secret is not None:
        command.append("--tls")
    return [*command, *_key_file(pool)]


def _key_file(pool: EnginePool) -> list[str]:
    return [] if pool.engine.keys is None else ["--key-file", KEY_FILE]


def _certificate(pool: EnginePool) -> list[str]:
    if pool.engine.tls_secret is None:
        return []
    certificate, key = (f"{TLS_FOLDER}/{entry}" for entry in TLS_ENTRIES)
    return ["--tls-cert", certificate, "--tls-key", key]


def _probe(pool: EnginePool, path: str, port: int) -> dict[str, Any]:
    asked = {"path": path, "port": port}
    return asked if pool.engine.tls_secret is None else {**asked, "scheme": "HTTPS"}


def _ports(pool: EnginePool) -> list[dict[str, Any]]:
    http, capacity = PLAIN if pool.engine.tls_secret is None else ENCRYPTED
    numbers = {http: HTTP_PORT}
    if pool.engine.runtime is EngineRuntime.VLLM:
        numbers[capacity] = CAPACITY_PORT
    return [{"name": name, "containerPort": number, "protocol": "TCP"} for name, number in numbers.items()]


def _model(pool: EnginePool) -> str:
    source = pool.model.source
    if source is None:
        raise ValueError(f"EnginePool {pool.name} has no model to load")
    return f"generated://{source.location}" if source.origin is ModelOrigin.GENERATED else source.location


def _environment(pool: EnginePool) -> list[dict[str, Any]]:
    """Ours, then the pool's own, which win."""
    ours = {"HOME": CACHE} if pool.engine.runtime is EngineRuntime.EMULATED else _ENVIRONMENT
    given = {variable.name: variable for variable in pool.engine.env}
    return [
        *({"name": name, "value": value} for name, value in ours.items() if name not in given),
        *(_variable(variable) for variable in pool.engine.env),
    ]


def _variable(variable: EnvironmentVariable) -> dict[str, Any]:
    if variable.secret is None:
        return {"name": variable.name, "value": variable.value or ""}
    reference = {"name": variable.secret.name, "key": variable.secret.key}
    return {"name": variable.name, "valueFrom": {"secretKeyRef": reference}}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
