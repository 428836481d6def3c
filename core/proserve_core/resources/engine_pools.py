"""The EnginePool resource: engines that serve one model, started by us or run by somebody else."""

import re

from proserve_core.latency.calibrations import calibration_names
from proserve_core.objectives import SecretKeyRef
from proserve_core.pools import (
    DEFAULT_CALIBRATION,
    DEFAULT_DRAIN_S,
    DEFAULT_ROUTING_POLICY,
    Endpoint,
    EnginePool,
    ModelOrigin,
    ModelSource,
    PoolModel,
    PoolResources,
    Rollout,
)
from proserve_core.resources.engine_fields import ENGINE, build_engine, check_engine
from proserve_core.resources.errors import show
from proserve_core.resources.fields import (
    LABEL_NAME,
    Effect,
    Field,
    Integer,
    ListOf,
    Object,
    Rule,
    Text,
    secret_key_ref,
)
from proserve_core.resources.kinds import API_VERSION, Column, Definition, Kind, Reading
from proserve_core.resources.pod_fields import DRAIN, POD, RESOURCES, build_pod, check_pod
from proserve_core.resources.scaling_fields import MOST_ENGINES, ROLLOUT, SCALING, build_scaling, check_scaling
from proserve_core.resources.status_fields import ENGINE_POOL_STATUS
from proserve_core.routing.registry import LATE_ROUTERS, ROUTERS

CALIBRATION_ANNOTATION = "proserve.dev/calibration"

_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
URL_PATTERN = rf"https?://([a-z0-9]([-a-z0-9.]*[a-z0-9])?|\[[0-9a-f:.]+\])(:{_PORT})?(/[^\s?#]*)?"
_URL = re.compile(URL_PATTERN, re.IGNORECASE | re.ASCII)

_ENGINE_FIELDS = (
    "spec.model.uri",
    "spec.model.maxModelLength",
    "spec.engine",
    "spec.replicas",
    "spec.scaling",
    "spec.resources",
    "spec.pod",
    "spec.rollout",
    "spec.drain",
)
"""Fields about engines that we start; they contradict `endpoints`."""

_MODEL = Object(
    fields=(
        Field(
            name="name",
            type=Text(
                pattern=r"[A-Za-z0-9][A-Za-z0-9._/:@-]*",
                form="a model name of letters, digits and ._/:@- that starts with a letter or digit",
                max_length=253,
                rules=(Rule(expression="self == oldSelf", message="never changes; make another EnginePool for it"),),
            ),
            required=True,
            description="What clients write in the field `model` of a request. No two pools share a name, and it "
            "never changes: another name is another pool.",
        ),
        Field(
            name="uri",
            type=Text(
                pattern=r"generated://[a-z0-9][a-z0-9.-]*|hf://[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+|file:///[^\x00]+",
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
_ENDPOINT = Object(
    fields=(
        Field(
            name="url",
            type=Text(
                max_length=2048,
                label="URL",
                rules=(
                    Rule(
                        expression=f"self.matches(r'^(?i){URL_PATTERN}$') && !self.contains('@')",
                        message="is not a server's address; write it as http://host:port, without user, password and "
                        "query",
                    ),
                ),
            ),
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
            type=Text(choices=tuple(sorted([*ROUTERS, *LATE_ROUTERS]))),
            default=DEFAULT_ROUTING_POLICY,
            description="How the gateway chooses an engine of the pool for a request.",
        ),
    )
)


_RULES = (
    *(
        Rule(
            expression=f"!has(self.endpoints) || !has({path.replace('spec', 'self', 1)})",
            message=f"{path} contradicts spec.endpoints (engines that somebody else runs); remove one of the two",
        )
        for path in _ENGINE_FIELDS
    ),
    Rule(
        expression="has(self.endpoints) || has(self.model.uri)",
        message="spec.model.uri is missing; say where engines load the model from, or list running servers in "
        "endpoints",
    ),
    Rule(
        expression="!has(self.scaling) || !has(self.replicas)",
        message="spec.replicas contradicts spec.scaling; remove one of the two",
        field=".replicas",
    ),
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
    check_scaling(reading)
    check_engine(reading)
    check_pod(reading)


def _check_url(reading: Reading, url: str, path: str, seen: set[str]) -> None:
    expected = "write it as http://host:port, without query"
    if "@" in url:
        # The address is not shown: it may hold a password.
        reading.error(path, "holds a user name or password", "put the credential in a Secret and name it in apiKey")
    elif not _URL.fullmatch(url):
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
                        type=Integer(minimum=0, maximum=MOST_ENGINES),
                        description="How many engines are started. Without it and without `scaling`: 1. An autoscaler "
                        "may own it through the scale subresource.",
                    ),
                    Field(
                        name="scaling",
                        type=SCALING,
                        effect=Effect.CLUSTER_ONLY,
                        description="How many engines there are follows the gain that one more or one less would "
                        "bring. Not with `replicas`.",
                    ),
                    Field(name="engine", type=ENGINE, description="How engines are started."),
                    Field(name="resources", type=RESOURCES, description="What one engine needs, as in a Pod."),
                    Field(
                        name="pod",
                        type=POD,
                        effect=Effect.CLUSTER_ONLY,
                        description="Where and how the pods of engines run.",
                    ),
                    Field(
                        name="rollout",
                        type=ROLLOUT,
                        effect=Effect.CLUSTER_ONLY,
                        description="How engines are replaced when something about them changes.",
                    ),
                    Field(
                        name="drain",
                        type=DRAIN,
                        effect=Effect.CLUSTER_ONLY,
                        description="What happens to running requests when an engine is to go.",
                    ),
                    Field(
                        name="endpoints",
                        type=ListOf(items=_ENDPOINT, min_items=1, keys=("url",)),
                        description="Running OpenAI-compatible servers to use instead of starting engines.",
                    ),
                    Field(name="routing", type=_ROUTING, description="How requests are spread over the engines."),
                ),
                rules=_RULES,
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
    definition=Definition(
        plural="enginepools",
        short_name="epool",
        columns=(
            Column(name="Model", path=".spec.model.name"),
            Column(name="Engines", path=".status.engines"),
            Column(name="Ready", path=".status.conditions[?(@.type=='Ready')].status"),
            Column(name="Reason", path=".status.conditions[?(@.type=='Ready')].reason"),
            Column(name="Gain", path=".status.gain.ratio"),
            Column(name="SLO", path=".status.gain.sloAttainment"),
            Column(name="Policy", path=".spec.engine.scheduler.policy", wide=True),
            Column(name="Scaling", path=".status.conditions[?(@.type=='ScalingActive')].reason", wide=True),
            Column(name="Accepted", path=".status.conditions[?(@.type=='Accepted')].status", wide=True),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
        ),
        status=ENGINE_POOL_STATUS,
        rules=(
            Rule(
                expression=f"self.metadata.name.size() <= 63 && self.metadata.name.matches('^{LABEL_NAME.pattern}$')",
                message=f"metadata.name must be {LABEL_NAME.form}, of at most 63 characters",
            ),
        ),
        scalable=True,
    ),
    check=_check,
)


def build_engine_pool(reading: Reading) -> EnginePool:
    """The domain object of a reading without errors."""
    spec = reading.spec
    model, resources = spec["model"], spec.get("resources", {})
    scaling = build_scaling(spec["scaling"]) if "scaling" in spec else None
    # A pool that may sleep begins awake: that shows whether its engines start, and outside a cluster nobody wakes it.
    replicas: int = max(scaling.min_engines, 1) if scaling else spec.get("replicas", 1)
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
        replicas=0 if endpoints else replicas,
        scaling=scaling,
        engine=build_engine(spec.get("engine", {})),
        resources=PoolResources(limits=resources.get("limits", {}), requests=resources.get("requests", {})),
        pod=build_pod(spec.get("pod", {})),
        rollout=Rollout(spec.get("rollout", {}).get("strategy", Rollout.SURGE)),
        drain_s=spec.get("drain", {}).get("gracePeriod", DEFAULT_DRAIN_S),
        endpoints=endpoints,
        routing_policy=spec.get("routing", {}).get("policy", DEFAULT_ROUTING_POLICY),
        calibration=reading.annotations[CALIBRATION_ANNOTATION],
    )


def _source(uri: str) -> ModelSource:
    scheme, location = uri.split("://", 1)
    return ModelSource(origin=ModelOrigin(scheme), location=location)
