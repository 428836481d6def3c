"""`spec.engine` of an EnginePool: what runs in an engine's process."""

from collections.abc import Mapping
from typing import Any

from proserve_core.batching.registry import POLICIES
from proserve_core.blocks.settings import kv_offload
from proserve_core.objectives import SecretKeyRef
from proserve_core.pools import (
    DEFAULT_BATCHING_POLICY,
    DEFAULT_START_LIMIT_S,
    EngineRuntime,
    EngineSettings,
    EnvironmentVariable,
)
from proserve_core.resources.errors import show
from proserve_core.resources.fields import (
    SUBDOMAIN_NAME,
    Duration,
    Effect,
    Field,
    ListOf,
    Object,
    Rule,
    Text,
    secret_key_ref,
)
from proserve_core.resources.kinds import Reading
from proserve_core.resources.kv_offload import KV_OFFLOAD, KV_OFFLOAD_PATH, check_kv_offload
from proserve_core.resources.pod_fields import ENVIRONMENT_VARIABLE

_OWN_ARGUMENTS: Mapping[str, str] = {
    "--model": "spec.model.uri says it",
    "--served-model-name": "spec.model.name says it",
    "--max-model-len": "set spec.model.maxModelLength instead",
    "--scheduler-cls": "set spec.engine.scheduler.policy instead",
    "--host": "the engine's address is chosen for it",
    "--port": "the engine's port is chosen for it",
    "--kv-offload": "set spec.engine.kvOffload instead",
    "--key-file": "set spec.engine.keys instead; proserve up makes a key for each run",
    **dict.fromkeys(("--tls-cert", "--tls-key", "--ssl-certfile", "--ssl-keyfile"), "set spec.engine.tls instead"),
    **dict.fromkeys(("--ssl-ca-certs", "--ssl-cert-reqs"), "gateways show no certificate; set spec.engine.keys"),
}
"""Arguments of `proserve engine serve` that are derived from other fields or not a pool's to choose."""

_KNOWN_THEN = "probes, draining and gateways know it then"
_OWN_VARIABLES: Mapping[str, str] = {
    "PROSERVE_ENGINE_KEY_FILE": f"set spec.engine.keys instead: {_KNOWN_THEN}",
    "PROSERVE_ENGINE_TLS_CERT": f"set spec.engine.tls instead: {_KNOWN_THEN}",
    "PROSERVE_ENGINE_TLS_KEY": f"set spec.engine.tls instead: {_KNOWN_THEN}",
}
"""An engine that asks for what they don't know would never be ready."""
_KV_TRANSFER = ("--kv-transfer-config", "-kvt")


def _none_of(options: tuple[str, ...]) -> str:
    """CEL: no argument of the list `self.args` is one of these, with `-` or `_` inside, with or without a value."""
    names = "|".join(option.removeprefix("--").replace("-", "[-_]") for option in options if option.startswith("--"))
    short = "".join(f"|{option}" for option in options if not option.startswith("--"))
    return f"!has(self.args) || self.args.all(a, !a.matches('(?s)^([-_][-_]({names}){short})(=.*)?$'))"


_SCHEDULER = Object(
    fields=(
        Field(
            name="policy",
            type=Text(choices=tuple(sorted(POLICIES))),
            default=DEFAULT_BATCHING_POLICY,
            description="How an engine chooses what runs in its next step.",
        ),
    )
)
ENGINE = Object(
    fields=(
        Field(
            name="runtime",
            type=Text(choices=tuple(runtime.value for runtime in EngineRuntime)),
            default=EngineRuntime.VLLM.value,
            effect=Effect.CLUSTER_ONLY,
            description="VLLM: the model on vLLM. Emulated: step times of the annotation's calibration and no model, "
            "to try things out without GPUs.",
        ),
        Field(
            name="image",
            type=Text(pattern=r"\S+", form="an image reference without spaces", label="image"),
            effect=Effect.CLUSTER_ONLY,
            description="Container image of the engine. Without it: the operator's own choice.",
        ),
        Field(
            name="args",
            type=ListOf(items=Text(max_length=1024)),
            description="Further arguments of `vllm serve`, one string each, such as `--max-num-seqs=64`.",
        ),
        Field(
            name="env",
            type=ListOf(items=ENVIRONMENT_VARIABLE, keys=("name",)),
            effect=Effect.CLUSTER_ONLY,
            description="Further variables of the engine's environment, such as `HF_TOKEN`.",
        ),
        Field(
            name="startLimit",
            type=Duration(minimum="10s", maximum="24h"),
            default="30m",
            effect=Effect.CLUSTER_ONLY,
            description="An engine that has not loaded its model by then is started anew.",
        ),
        Field(name="scheduler", type=_SCHEDULER, description="How engines order their work."),
        Field(
            name="kvOffload",
            type=KV_OFFLOAD,
            description="KV blocks of preempted requests are kept in host memory. Without it they are computed again.",
        ),
        Field(
            name="keys",
            type=Object(fields=(secret_key_ref("Secret entry in the pool's namespace."),)),
            effect=Effect.CLUSTER_ONLY,
            description="Engines answer only who knows one of these keys, one a line, of 16 characters or more. "
            "Gateways send the first. Without it a network policy alone keeps others away.",
        ),
        Field(
            name="tls",
            type=Object(
                fields=(
                    Field(
                        name="secretName",
                        type=SUBDOMAIN_NAME,
                        required=True,
                        description="Secret of type kubernetes.io/tls in the pool's namespace. Its certificate is for "
                        "the name `SERVICE.NAMESPACE.svc`, where the Service is `engine-` and the pool's name; an "
                        "entry `ca.crt` says who signed it.",
                    ),
                )
            ),
            effect=Effect.CLUSTER_ONLY,
            description="Engines speak TLS on both ports. Without it what gateways send them is plain text.",
        ),
    ),
    rules=(
        *(
            Rule(expression=_none_of((option,)), message=f"{option} is set by ProServe; {fix}", field=".args")
            for option, fix in _OWN_ARGUMENTS.items()
        ),
        *(
            Rule(
                expression=f"!has(self.env) || self.env.all(e, e.name != '{variable}')",
                message=f"{variable} is set by ProServe; {fix}",
                field=".env",
            )
            for variable, fix in _OWN_VARIABLES.items()
        ),
        Rule(
            expression=f"!has(self.kvOffload) || {_none_of(_KV_TRANSFER)}",
            message=f"{_KV_TRANSFER[0]} contradicts kvOffload; remove one of the two",
            field=".args",
        ),
    ),
)


def check_engine(reading: Reading) -> None:
    """What `Rule`s say to the API server."""
    engine = reading.spec.get("engine", {})
    for index, argument in enumerate(engine.get("args", ())):
        option = (argument or "").split("=", 1)[0].replace("_", "-")
        if option in _OWN_ARGUMENTS:
            reading.error(f"spec.engine.args[{index}]", f"{show(argument)} is set by ProServe", _OWN_ARGUMENTS[option])
        if option in _KV_TRANSFER and reading.has(KV_OFFLOAD_PATH):
            reading.error(
                f"spec.engine.args[{index}]", f"{option} contradicts {KV_OFFLOAD_PATH}", "remove one of the two"
            )
    seen: set[str] = set()
    for index, variable in enumerate(engine.get("env", ())):
        name = (variable or {}).get("name")
        if (fix := _OWN_VARIABLES.get(name or "")) is not None:
            reading.error(f"spec.engine.env[{index}].name", f"{show(name)} is set by ProServe", fix)
        if name in seen:
            reading.error(f"spec.engine.env[{index}].name", f"{show(name)} is there twice", "remove one of the two")
        if name is not None:
            seen.add(name)
    check_kv_offload(reading, engine.get("kvOffload", {}))


def build_engine(fields: Mapping[str, Any]) -> EngineSettings:
    """The domain object of `spec.engine` without errors."""
    return EngineSettings(
        runtime=EngineRuntime(fields.get("runtime", EngineRuntime.VLLM)),
        image=fields.get("image"),
        args=tuple(fields.get("args", ())),
        env=tuple(
            EnvironmentVariable(
                name=variable["name"],
                value=variable.get("value"),
                secret=SecretKeyRef(**variable["secretKeyRef"]) if "secretKeyRef" in variable else None,
            )
            for variable in fields.get("env", ())
        ),
        start_limit_s=fields.get("startLimit", DEFAULT_START_LIMIT_S),
        batching_policy=fields.get("scheduler", {}).get("policy", DEFAULT_BATCHING_POLICY),
        kv_offload=kv_offload(fields["kvOffload"]) if "kvOffload" in fields else None,
        keys=SecretKeyRef(**fields["keys"]["secretKeyRef"]) if "keys" in fields else None,
        tls_secret=fields["tls"]["secretName"] if "tls" in fields else None,
    )
