"""kopf's part: it follows the resources and what was made for them, and keeps the watches alive.

Only its event handlers are used. They keep nothing in the cluster: no finalizer, so that deletion never waits for the
operator, and no annotation, so that there is nothing to fight over with another operator. Whatever they see goes into
the store and wakes the pools concerned.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import kopf

from proserve_operator.kube_client import MANAGED
from proserve_operator.names import ANNOTATION_PREFIX

Seen = Callable[[str, str | None, dict[str, Any]], None]
"""Kind, type of the event (None: from the first list), object."""

GROUP = "proserve.dev"
OWN_KINDS = {"EnginePool": "enginepools", "PriorityClass": "priorityclasses", "Tenant": "tenants"}
_CHILD_RESOURCES = {
    "Deployment": ("apps", "v1", "deployments"),
    "NetworkPolicy": ("networking.k8s.io", "v1", "networkpolicies"),
    "PodDisruptionBudget": ("policy", "v1", "poddisruptionbudgets"),
    "Service": ("", "v1", "services"),
    "ServiceMonitor": ("monitoring.coreos.com", "v1", "servicemonitors"),
}
WATCH_MINUTES = 5


def registry(seen: Seen, *, children: Iterable[str]) -> kopf.OperatorRegistry:
    """Handlers that tell `seen` of every event of our resources and of the kinds `children`."""
    made = kopf.OperatorRegistry()
    kopf.on.login(registry=made)(_login)
    kopf.on.startup(registry=made)(_configure)
    for kind, plural in OWN_KINDS.items():
        kopf.on.event(GROUP, "v1alpha1", plural, registry=made, id=plural)(functools.partial(_tell, seen, kind))
    for kind in children:
        resource = _CHILD_RESOURCES[kind]
        kopf.on.event(*resource, registry=made, id=resource[2])(functools.partial(_tell, seen, kind))
    return made


async def watch(handlers: kopf.OperatorRegistry, *, namespaces: Sequence[str], ready: asyncio.Event) -> None:
    """Follow until cancelled, or until a signal ends it; `ready` is set before the first lists come.

    Not `kopf.operator()`, which at its end cancels every task of the loop that was made after it began, ours too.
    """
    tasks = await kopf.spawn_tasks(
        registry=handlers, clusterwide=not namespaces, namespaces=namespaces, standalone=True, ready_flag=ready
    )
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _tell(seen: Seen, kind: str, /, *, event: dict[str, Any], **_: Any) -> None:
    body = dict(event["object"])
    # Items of a list come without them.
    body.setdefault("kind", kind)
    seen(kind, event["type"], body)


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.watching.server_timeout = WATCH_MINUTES * 60
    settings.watching.chunk_size = 500
    # Kinds and namespaces are given; looking for others would need the right to see them.
    settings.scanning.disabled = True
    for resource in _CHILD_RESOURCES.values():
        settings.watching.label_selectors[resource] = MANAGED
    settings.persistence.finalizer = f"{ANNOTATION_PREFIX}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=ANNOTATION_PREFIX)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=ANNOTATION_PREFIX)
