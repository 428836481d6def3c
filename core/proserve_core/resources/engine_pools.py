"""The EnginePool resource: engines that serve one model, started by us or run by somebody else."""

import re
from collections.abc import Mapping

from proserve_core.batching.registry import POLICIES
from proserve_core.blocks.settings import kv_offload
from proserve_core.latency.calibrations import calibration_names
from proserve_core.objectives import SecretKeyRef
from proserve_core.pools import (
    DEFAULT_BATCHING_POLICY,
    DEFAULT_CALIBRATION,
    DEFAULT_ROUTING_POLICY,
    Endpoint,
    EnginePool,
    EngineSettings,
    ModelOrigin,
    ModelSource,
    PoolModel,
    PoolResources,
)
from proserve_core.resources.errors import show
from proserve_core.resources.fields import (
    LABEL_NAME,
    Effect,
    Field,
    Integer,
    ListOf,
    MapOf,
    Object,
    Quantity,
    Text,
    secret_key_ref,
)
from proserve_core.resources.kinds import API_VERSION, Kind, Reading
from proserve_core.resources.kv_offload import KV_OFFLOAD, KV_OFFLOAD_PATH, check_kv_offload
from proserve_core.routing.registry import ROUTERS

CALIBRATION_ANNOTATION = "proserve.dev/calibration"

_URL = re.compile(
    r"https?://([a-z0-9]([-a-z0-9.]*[a-z0-9])?|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?(?P<path>/[^\s?#]*)?",
    re.IGNORECASE | re.ASCII,
)

_OWN_ARGUMENTS: Mapping[str, str] = {
    "--model": "spec.model.uri says it",
    "--served-model-name": "spec.model.name says it",
    "--max-model-len": "set spec.model.maxModelLength instead",
    "--scheduler-cls": "set spec.engine.scheduler.policy instead",
    "--host": "the engine's address is chosen for it",
    "--port": "the engine's port is chosen for it",
    "--kv-offload": "set spec.engine.kvOffload instead",
}
"""Arguments of `vllm serve` that are derived from other fields."""

_KV_TRANSFER = ("--kv-transfer-config", "-kvt")

_ENGINE_FIELDS = ("spec.model.uri", "spec.model.maxModelLength", "spec.engine", "spec.replicas", "spec.resources")
"""Fields about engines that we start; they contradict `endpoints`."""

_MODEL = Object(
    fields=(
        Field(
            name="name",
            type=Text(
                pattern=r"[A-Za-z0-9][A-Za-z0-9._/:@-]*",
                form="a model name of letters, digits and ._/:@- that starts with a letter or digit",
                max_length=253,
            ),
            required=True,
            description="What clients write in the field `model` of a request. No two pools share a name.",
        ),
        Field(
            name="uri",
            type=Text(
                pattern=r"generated://[a-z0-9][a-z0-9.-]*|hf://[\w.-]+/[\w.-]+|file:///[^\x00]+",
                form="a model address: 'generated://tiny' (made on this machine), "
                "'hf://organisation/name' (Hugging Face) or 'file:///folder'",
                label="URI",
            ),
            description="Where engines load the model from. Needed without `endpoints`, not allowed with them.",
        ),
        Field(
            name="maxModelLength",
            type=Integer(minimum=1),
            description="Longest context (prompt and output) in tokens. Without it: what the model allows.",
        ),
    )
)
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
_ENGINE = Object(
    fields=(
        Field(
            name="image",
            type=Text(pattern=r"\S+", form="an image reference without spaces", label="image"),
            effect=Effect.CLUSTER_ONLY,
            description="Container image of the engine.",
        ),
        Field(
            name="args",
            type=ListOf(items=Text()),
            description="Further arguments of `vllm serve`, one string each, such as `--max-num-seqs=64`.",
        ),
        Field(name="scheduler", type=_SCHEDULER, description="How engines order their work."),
        Field(
            name="kvOffload",
            type=KV_OFFLOAD,
            description="KV blocks of preempted requests are kept in host memory. Without it they are computed again.",
        ),
    )
)
_RESOURCE_NAME = Text(pattern=r"[A-Za-z0-9][-A-Za-z0-9./_]*", form="a resource name such as 'nvidia.com/gpu'")
_RESOURCES = Object(
    fields=(
        Field(
            name="limits",
            type=MapOf(keys=_RESOURCE_NAME, values=Quantity()),
            effect=Effect.CLUSTER_ONLY,
            description="Most of each resource that one engine gets, such as `nvidia.com/gpu: 1`.",
        ),
        Field(
            name="requests",
            type=MapOf(keys=_RESOURCE_NAME, values=Quantity()),
            effect=Effect.CLUSTER_ONLY,
            description="What a node must have free of each resource to take one engine.",
        ),
    )
)
_ENDPOINT = Object(
    fields=(
        Field(
            name="url",
            type=Text(max_length=2048, label="URL"),
            required=True,
            description="Address of an OpenAI-compatible server, such as `http://host:8000`; `/v1/...` is added to it.",
        ),
        Field(
            name="apiKey",
            type=Object(fields=(secret_key_ref("Secret entry in the pool's namespace."),)),
            description="Bearer credential that the server asks for.",
        ),
    )
)
_ROUTING = Object(
    fields=(
        Field(
            name="policy",
            type=Text(choices=tuple(sorted(ROUTERS))),
            default=DEFAULT_ROUTING_POLICY,
            description="How the gateway chooses an engine of the pool for a request.",
        ),
    )
)


def _check(reading: Reading) -> None:
    if reading.has("spec.endpoints"):
        for path in _ENGINE_FIELDS:
            if reading.has(path):
                reading.error(
                    path,
                    "contradicts spec.endpoints (engines that somebody else runs)",
                    "remove it, or remove spec.endpoints to have engines started",
                )
    elif "model" in reading.spec and not reading.has("spec.model.uri"):
        reading.error(
            "spec.model.uri",
            "is missing",
            "say where engines load the model from, or list running servers in endpoints",
        )
    seen: set[str] = set()
    for index, endpoint in enumerate(reading.spec.get("endpoints", ())):
        if endpoint is not None and "url" in endpoint:
            _check_url(reading, endpoint["url"], f"spec.endpoints[{index}].url", seen)
    for index, argument in enumerate(reading.spec.get("engine", {}).get("args", ())):
        option = (argument or "").split("=", 1)[0].replace("_", "-")
        if option in _OWN_ARGUMENTS:
            reading.error(f"spec.engine.args[{index}]", f"{show(argument)} is set by ProServe", _OWN_ARGUMENTS[option])
        if option in _KV_TRANSFER and reading.has(KV_OFFLOAD_PATH):
            reading.error(
                f"spec.engine.args[{index}]", f"{option} contradicts {KV_OFFLOAD_PATH}", "remove one of the two"
            )
    check_kv_offload(reading, reading.spec.get("engine", {}).get("kvOffload", {}))


def _check_url(reading: Reading, url: str, path: str, seen: set[str]) -> None:
    expected = "write it as http://host:port, without query"
    if "@" in url:
        # The address is not shown: it may hold a password.
        reading.error(path, "holds a user name or password", "put the credential in a Secret and name it in apiKey")
    elif not (match := _URL.fullmatch(url)) or not 0 < int(match["port"] or 80) < 65536:
        reading.error(path, f"{show(url)} is not a server's address", expected)
    elif _base_url(url) in seen:
        reading.error(path, f"{show(url)} is listed twice", "remove one of the two")
    seen.add(_base_url(url))


def _base_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}".rstrip("/").removesuffix("/v1")


ENGINE_POOL = Kind(
    name="EnginePool",
    api_version=API_VERSION,
    namespaced=True,
    name_form=LABEL_NAME,
    description="Engines that serve one model: either started for the pool, or `endpoints` that somebody else runs.",
    fields=(
        Field(
            name="spec",
            required=True,
            description="The model and its engines.",
            type=Object(
                fields=(
                    Field(name="model", type=_MODEL, required=True, description="The model that the pool serves."),
                    Field(
                        name="replicas",
                        type=Integer(minimum=1),
                        default=1,
                        description="How many engines are started.",
                    ),
                    Field(name="engine", type=_ENGINE, description="How engines are started."),
                    Field(name="resources", type=_RESOURCES, description="What one engine needs, as in a Pod."),
                    Field(
                        name="endpoints",
                        type=ListOf(items=_ENDPOINT, min_items=1),
                        description="Running OpenAI-compatible servers to use instead of starting engines.",
                    ),
                    Field(name="routing", type=_ROUTING, description="How requests are spread over the engines."),
                )
            ),
        ),
    ),
    annotations=(
        Field(
            name=CALIBRATION_ANNOTATION,
            type=Text(choices=calibration_names()),
            default=DEFAULT_CALIBRATION,
            description="Calibration whose step times an emulated engine takes (`proserve up --engine emulated`).",
        ),
    ),
    check=_check,
)


def build_engine_pool(reading: Reading) -> EnginePool:
    """The domain object of a reading without errors."""
    spec = reading.spec
    model, engine, resources = spec["model"], spec.get("engine", {}), spec.get("resources", {})
    endpoints = tuple(
        Endpoint(
            url=_base_url(endpoint["url"]),
            api_key=SecretKeyRef(**endpoint["apiKey"]["secretKeyRef"]) if "apiKey" in endpoint else None,
        )
        for endpoint in spec.get("endpoints", ())
    )
    return EnginePool(
        name=reading.name or "",
        namespace=reading.namespace,
        model=PoolModel(
            name=model["name"],
            source=_source(model["uri"]) if "uri" in model else None,
            max_model_length=model.get("maxModelLength"),
        ),
        replicas=0 if endpoints else spec["replicas"],
        engine=EngineSettings(
            image=engine.get("image"),
            args=tuple(engine.get("args", ())),
            batching_policy=engine.get("scheduler", {}).get("policy", DEFAULT_BATCHING_POLICY),
            kv_offload=kv_offload(engine["kvOffload"]) if "kvOffload" in engine else None,
        ),
        resources=PoolResources(limits=resources.get("limits", {}), requests=resources.get("requests", {})),
        endpoints=endpoints,
        routing_policy=spec.get("routing", {}).get("policy", DEFAULT_ROUTING_POLICY),
        calibration=reading.annotations[CALIBRATION_ANNOTATION],
    )


def _source(uri: str) -> ModelSource:
    scheme, location = uri.split("://", 1)
    return ModelSource(origin=ModelOrigin(scheme), location=location)
