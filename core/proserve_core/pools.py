"""An engine pool: engines that serve one model, and how requests are spread over them.

The domain meaning of the EnginePool resource. `proserve up` starts a pool's engines as local processes, the gateway
routes to them; a pool with `endpoints` stands in front of OpenAI-compatible servers that somebody else runs.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from proserve_core.blocks.settings import KvOffload
from proserve_core.objectives import SecretKeyRef

DEFAULT_BATCHING_POLICY = "recoverable-gain"
DEFAULT_ROUTING_POLICY = "go-routing"
DEFAULT_CALIBRATION = "cpu-tiny"


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


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the pool's engines are started."""

    image: str | None = None
    args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`."""
    batching_policy: str = DEFAULT_BATCHING_POLICY
    kv_offload: KvOffload | None = None
    """None: preempted requests compute their KV again."""


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


class EnginePool(msgspec.Struct, frozen=True, kw_only=True):
    """Engines of one model. Either `endpoints` is empty, or it names all engines and `engine` plays no part."""

    name: str
    namespace: str
    model: PoolModel
    replicas: int = 1
    """Engines to start; 0 for a pool of endpoints."""
    engine: EngineSettings = EngineSettings()
    resources: PoolResources = PoolResources()
    endpoints: tuple[Endpoint, ...] = ()
    routing_policy: str = DEFAULT_ROUTING_POLICY
    calibration: str = DEFAULT_CALIBRATION
    """Step times of an emulated engine."""
