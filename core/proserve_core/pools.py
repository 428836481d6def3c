"""An engine pool: engines that serve one model, and how requests are spread over them.

The domain meaning of the EnginePool resource. `proserve up` starts a pool's engines as local processes, the gateway
routes to them; a pool with `endpoints` stands in front of OpenAI-compatible servers that somebody else runs.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from proserve_core.blocks.settings import KvOffload
from proserve_core.objectives import SecretKeyRef

DEFAULT_BATCHING_POLICY = "recoverable-gain"
DEFAULT_ROUTING_POLICY = "go-routing"
DEFAULT_CALIBRATION = "cpu-tiny"
DEFAULT_START_LIMIT_S = 1800.0
DEFAULT_DRAIN_S = 60.0
DEFAULT_SHARED_MEMORY = "2Gi"


class ModelOrigin(StrEnum):
    """Scheme of `model.uri`."""

    GENERATED = "generated"
    """A tiny model made on this machine, for demos and tests; the location is its name."""
    HUGGING_FACE = "hf"
    """A Hugging Face repository; the location is `organisation/name`."""
    FILE = "file"
    """A folder on the engine's machine; the location is its absolute path."""


class ModelSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where an engine loads the model from."""

    origin: ModelOrigin
    location: str


class PoolModel(msgspec.Struct, frozen=True, kw_only=True):
    """The model of a pool."""

    name: str
    """What clients write in the `model` field of a request."""
    source: ModelSource | None = None
    """None for a pool of endpoints."""
    max_model_length: int | None = None
    """Longest context in tokens; None: what the model allows."""


class EngineRuntime(StrEnum):
    """What runs in an engine's pod."""

    VLLM = "VLLM"
    EMULATED = "Emulated"
    """Step times of the pool's calibration and no model: for trying things out without GPUs."""


class EnvironmentVariable(msgspec.Struct, frozen=True, kw_only=True):
    """One of an engine's; the value is here or in a Secret of the pool's namespace."""

    name: str
    value: str | None = None
    secret: SecretKeyRef | None = None


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the pool's engines are started."""

    runtime: EngineRuntime = EngineRuntime.VLLM
    image: str | None = None
    args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`, or of `proserve emulate`."""
    env: tuple[EnvironmentVariable, ...] = ()
    start_limit_s: float = DEFAULT_START_LIMIT_S
    """An engine that does not answer by then is started anew."""
    batching_policy: str = DEFAULT_BATCHING_POLICY
    kv_offload: KvOffload | None = None
    """None: preempted requests compute their KV again."""
    keys: SecretKeyRef | None = None
    """Secret entry with the keys of which an engine's clients must know one (`proserve_core.access_keys`); None: it
    answers whoever reaches it."""
    tls_secret: str | None = None
    """Secret of type `kubernetes.io/tls` with which engines serve; None: they speak plain text."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A running OpenAI-compatible server."""

    url: str
    """`scheme://host[:port][/path]`: what `/v1/...` is added to."""
    api_key: SecretKeyRef | None = None
    """Bearer credential that the server asks for, from a Secret in the pool's namespace."""


class PoolResources(msgspec.Struct, frozen=True, kw_only=True):
    """Kubernetes resource requirements of one engine, as written (`nvidia.com/gpu: "1"`)."""

    limits: Mapping[str, str] = {}
    requests: Mapping[str, str] = {}


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """How many engines there may be, and when one more or one less is worth it (`proserve_core.scaling`)."""

    min_engines: int
    """0: an idle pool has none, and requests wait for the first one."""
    max_engines: int
    max_loss_percent: int = 2
    """Share of the gain that may be lost for want of capacity."""
    scale_up_delay_s: float = 30.0
    scale_down_delay_s: float = 300.0
    idle_delay_s: float = 900.0
    """How long no request may have come before the last engine goes."""


class Rollout(StrEnum):
    """How pods are replaced when something about them changes."""

    SURGE = "Surge"
    """The new engine is ready before the old one goes: no capacity is lost, a spare GPU is needed."""
    REPLACE = "Replace"
    """One engine goes before its successor comes."""


class ModelCache(msgspec.Struct, frozen=True, kw_only=True):
    """Where downloaded models are kept; exactly one is given."""

    claim_name: str | None = None
    host_path: str | None = None
    size: str | None = None


class PodSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the pods of engines are made, in Kubernetes' own terms."""

    node_selector: Mapping[str, str] = {}
    tolerations: tuple[Mapping[str, Any], ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    image_pull_policy: str | None = None
    service_account: str | None = None
    priority_class: str | None = None
    """Of Kubernetes' own kind, which orders pods."""
    runtime_class: str | None = None
    shared_memory: str = DEFAULT_SHARED_MEMORY
    """Size of /dev/shm."""
    model_cache: ModelCache | None = None
    """None: lives as long as the pod."""
    template: Mapping[str, Any] = {}
    """A PodTemplateSpec laid over the generated one."""


class EnginePool(msgspec.Struct, frozen=True, kw_only=True):
    """Engines of one model. Either `endpoints` is empty, or it names all engines and `engine` plays no part."""

    name: str
    namespace: str
    model: PoolModel
    replicas: int = 1
    """Engines to start, with `scaling` at first; 0 for a pool of endpoints."""
    scaling: Scaling | None = None
    engine: EngineSettings = EngineSettings()
    resources: PoolResources = PoolResources()
    pod: PodSettings = PodSettings()
    rollout: Rollout = Rollout.SURGE
    drain_s: float = DEFAULT_DRAIN_S
    """What running requests get when an engine is to go; the gateway continues the rest elsewhere."""
    endpoints: tuple[Endpoint, ...] = ()
    routing_policy: str = DEFAULT_ROUTING_POLICY
    calibration: str = DEFAULT_CALIBRATION
    """Step times of an emulated engine."""
