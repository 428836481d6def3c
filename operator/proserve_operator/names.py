"""Names, labels and annotations of what the operator makes.

Annotations of ours are under a prefix of their own: `proserve.dev/` belongs to the resources' authors, and unknown
ones there are refused.
"""

import hashlib

from proserve_core.pools import EnginePool

FIELD_MANAGER = "proserve-operator"
STATUS_MANAGER = "proserve-operator-status"
"""Apart from the objects' manager: server-side apply removes what a manager no longer sends."""
ANNOTATION_PREFIX = "operator.proserve.dev"
HASH_ANNOTATION = f"{ANNOTATION_PREFIX}/desired"
DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
POOL_LABEL = "proserve.dev/pool"
NAME_LABEL = "app.kubernetes.io/name"
ENGINE_APP = "proserve-engine"
CONTAINER = "engine"
_NAME_LENGTH = 63


def child_name(pool: str) -> str:
    """Name of the pool's Deployment, Service and so on. A Service's begins with a letter and has 63 characters."""
    name = f"engine-{pool}"
    if len(name) <= _NAME_LENGTH:
        return name
    return f"{name[: _NAME_LENGTH - 9]}-{hashlib.sha256(pool.encode()).hexdigest()[:8]}"


def server_name(pool: str, namespace: str) -> str:
    """For which engines' certificates are: that of the pool's Service."""
    return f"{child_name(pool)}.{namespace}.svc"


def selector_labels(pool: str) -> dict[str, str]:
    """Labels that tell a pool's pods from all others; never change."""
    return {NAME_LABEL: ENGINE_APP, POOL_LABEL: pool}


def labels(pool: EnginePool) -> dict[str, str]:
    """Labels of everything that is made for the pool."""
    return {
        **selector_labels(pool.name),
        "app.kubernetes.io/component": "engine",
        "app.kubernetes.io/instance": pool.name,
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        "app.kubernetes.io/part-of": "proserve",
    }


def selector_text(pool: str) -> str:
    """The same as a label selector."""
    return ",".join(f"{key}={value}" for key, value in selector_labels(pool).items())


def qualified_name(namespace: str, name: str) -> str:
    """As gateways name a namespaced resource."""
    return name if namespace == "default" else f"{namespace}/{name}"
