"""`spec.pod`, `spec.resources` and `spec.drain` of an EnginePool: how Kubernetes runs an engine."""

from typing import Any

import msgspec

from proserve_core.pools import DEFAULT_SHARED_MEMORY, ModelCache, PodSettings
from proserve_core.resources.fields import (
    SUBDOMAIN_NAME,
    Duration,
    Effect,
    Field,
    FreeForm,
    Integer,
    ListOf,
    MapOf,
    Object,
    Quantity,
    Rule,
    Text,
    secret_key_ref,
)
from proserve_core.resources.kinds import Reading

MODEL_CACHE_PATH = "spec.pod.modelCache"
_CACHE_KINDS = ("claimName", "hostPath", "size")
_ONE_CACHE = "takes exactly one of claimName, hostPath and size"

_RESOURCE_NAME = Text(
    pattern=r"[A-Za-z0-9][-A-Za-z0-9./_]*", form="a resource name such as 'nvidia.com/gpu'", max_length=253
)
_LABEL_KEY = Text(
    pattern=r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
    form="a label name such as 'nvidia.com/gpu.product'",
    max_length=317,
)
_LABEL_VALUE = Text(
    pattern=r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?",
    form="a label value of letters, digits, '-', '_' and '.', or ''",
    max_length=63,
)


def _quantities(name: str, description: str) -> Field:
    return Field(
        name=name,
        type=MapOf(keys=_RESOURCE_NAME, values=Quantity(), max_items=16),
        effect=Effect.CLUSTER_ONLY,
        description=description,
    )


RESOURCES = Object(
    fields=(
        _quantities("limits", "Most of each resource that one engine gets, such as `nvidia.com/gpu: 1`."),
        _quantities("requests", "What a node must have free of each resource to take one engine."),
    )
)

DRAIN = Object(
    fields=(
        Field(
            name="gracePeriod",
            type=Duration(minimum="1s", maximum="1h"),
            default="60s",
            description="What running requests get to end when their engine is to go. The gateway continues what is "
            "left on another engine.",
        ),
    )
)

_TOLERATION = Object(
    fields=(
        Field(name="key", type=_LABEL_KEY, description="Key of the taint. Without it: all, with operator Exists."),
        Field(
            name="operator",
            type=Text(choices=("Equal", "Exists")),
            default="Equal",
            description="Equal: the taint has this value. Exists: whatever its value.",
        ),
        Field(name="value", type=_LABEL_VALUE, description="Value of the taint. Not with operator Exists."),
        Field(
            name="effect",
            type=Text(choices=("NoSchedule", "PreferNoSchedule", "NoExecute")),
            description="Effect of the taint. Without it: all.",
        ),
        Field(
            name="tolerationSeconds",
            type=Integer(minimum=0),
            description="How long a pod stays on a node that gets the taint. Only with effect NoExecute.",
        ),
    ),
    rules=(
        Rule(
            expression="self.operator == 'Exists' || has(self.key)",
            message="key is missing; name the taint or set operator: Exists",
        ),
        Rule(
            expression="self.operator != 'Exists' || !has(self.value)",
            message="value means nothing with operator Exists; remove it",
            field=".value",
        ),
        Rule(
            expression="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds means nothing without effect NoExecute; remove it",
            field=".tolerationSeconds",
        ),
    ),
)

_MODEL_CACHE = Object(
    fields=(
        Field(
            name="claimName",
            type=SUBDOMAIN_NAME,
            description="A PersistentVolumeClaim of the pool's namespace; several engines need ReadWriteMany.",
        ),
        Field(
            name="hostPath",
            type=Text(pattern=r"/[^\x00]*", form="an absolute path", label="path", max_length=1024),
            description="A folder of the node that user 65532 may write to (`chown 65532:65532`). It is made if it is "
            "not there, but then belongs to root and nothing can be written; Pod Security `restricted` forbids it.",
        ),
        Field(name="size", type=Quantity(), description="An empty volume of at most this size, gone with the pod."),
    ),
    rules=(
        Rule(
            expression="[has(self.claimName), has(self.hostPath), has(self.size)].filter(x, x).size() == 1",
            message=f"modelCache {_ONE_CACHE}",
        ),
    ),
)

POD = Object(
    fields=(
        Field(
            name="nodeSelector",
            type=MapOf(keys=_LABEL_KEY, values=_LABEL_VALUE, max_items=16),
            description="Labels that a node must have, such as `nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3`.",
        ),
        Field(name="tolerations", type=ListOf(items=_TOLERATION, max_items=16), description="Taints that pods bear."),
        Field(
            name="imagePullSecrets",
            type=ListOf(items=SUBDOMAIN_NAME, max_items=8, unique=True),
            description="Names of Secrets with credentials of the image's registry.",
        ),
        Field(
            name="imagePullPolicy",
            type=Text(choices=("Always", "IfNotPresent", "Never")),
            description="When the image is pulled. Without it: as Kubernetes decides from the tag.",
        ),
        Field(
            name="serviceAccountName",
            type=SUBDOMAIN_NAME,
            description="ServiceAccount of the pods. Without it: the namespace's default; its token is not mounted.",
        ),
        Field(
            name="priorityClassName",
            type=SUBDOMAIN_NAME,
            description="PriorityClass of Kubernetes (scheduling.k8s.io, which orders pods).",
        ),
        Field(name="runtimeClassName", type=SUBDOMAIN_NAME, description="RuntimeClass of the pods, such as `nvidia`."),
        Field(
            name="sharedMemory",
            type=Quantity(minimum="1", maximum="1Pi"),
            default=DEFAULT_SHARED_MEMORY,
            description="Most of /dev/shm, which the processes of one engine share. Counts as the container's memory.",
        ),
        Field(
            name="modelCache",
            type=_MODEL_CACHE,
            description="Where models are kept, mounted at /cache. Without it: an empty volume, gone with the pod.",
        ),
        Field(
            name="template",
            type=FreeForm(),
            description="PodTemplateSpec laid over the generated one: mappings are merged, lists of named things by "
            "name (the engine's container is `engine`), other lists replaced.",
        ),
    )
)

ENVIRONMENT_VARIABLE = Object(
    fields=(
        Field(
            name="name",
            type=Text(
                pattern=r"[A-Za-z_][A-Za-z0-9_]*",
                form="a variable's name such as 'HF_TOKEN'",
                label="name",
                max_length=253,
            ),
            required=True,
            description="Name of the variable.",
        ),
        Field(
            name="value",
            type=Text(pattern=r"[^\x00]*", form="a string", max_length=4096),
            description="Its value.",
        ),
        msgspec.structs.replace(
            secret_key_ref("Entry of a Secret in the pool's namespace that holds the value. One of the two is given."),
            required=False,
        ),
    ),
    rules=(
        Rule(
            expression="has(self.value) != has(self.secretKeyRef)",
            message="a variable takes either value or secretKeyRef; give one of the two",
        ),
    ),
)


def check_pod(reading: Reading) -> None:
    """What `Rule`s say to the API server."""
    pod = reading.spec.get("pod", {})
    for index, toleration in enumerate(pod.get("tolerations", ())):
        if toleration is not None and "operator" in toleration:
            _check_toleration(reading, toleration, f"spec.pod.tolerations[{index}]")
    if reading.has(MODEL_CACHE_PATH) and "modelCache" in pod:
        given = [name for name in _CACHE_KINDS if reading.has(f"{MODEL_CACHE_PATH}.{name}")]
        if len(given) != 1:
            reading.error(MODEL_CACHE_PATH, f"has {', '.join(given) or 'none of them'}", f"it {_ONE_CACHE}")
    for index, variable in enumerate(reading.spec.get("engine", {}).get("env", ())):
        path = f"spec.engine.env[{index}]"
        if variable is not None and reading.has(f"{path}.value") == reading.has(f"{path}.secretKeyRef"):
            reading.error(path, "takes either value or secretKeyRef", "give one of the two")


def _check_toleration(reading: Reading, toleration: dict[str, Any], path: str) -> None:
    exists = toleration["operator"] == "Exists"
    if not exists and not reading.has(f"{path}.key"):
        reading.error(f"{path}.key", "is missing", "name the taint or set operator: Exists")
    if exists and reading.has(f"{path}.value"):
        reading.error(f"{path}.value", "means nothing with operator Exists", "remove it")
    if reading.has(f"{path}.tolerationSeconds") and toleration.get("effect") != "NoExecute":
        reading.error(f"{path}.tolerationSeconds", "means nothing without effect NoExecute", "remove it")


def build_pod(fields: dict[str, Any]) -> PodSettings:
    """The domain object of `spec.pod` without errors."""
    cache = fields.get("modelCache")
    return PodSettings(
        node_selector=fields.get("nodeSelector", {}),
        tolerations=tuple(fields.get("tolerations", ())),
        image_pull_secrets=tuple(fields.get("imagePullSecrets", ())),
        image_pull_policy=fields.get("imagePullPolicy"),
        service_account=fields.get("serviceAccountName"),
        priority_class=fields.get("priorityClassName"),
        runtime_class=fields.get("runtimeClassName"),
        shared_memory=fields.get("sharedMemory", DEFAULT_SHARED_MEMORY),
        model_cache=None
        if cache is None
        else ModelCache(claim_name=cache.get("claimName"), host_path=cache.get("hostPath"), size=cache.get("size")),
        template=fields.get("template", {}),
    )
