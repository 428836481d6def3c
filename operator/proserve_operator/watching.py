"""kopf's part: it follows the resources and what was made for them, and keeps the watches alive.

Only its event handlers are used. They keep nothing in the cluster: no finalizer, so that deletion never waits for the
operator, and no annotation, so that there is nothing to fight over with another operator. Whatever they see goes into
the store and wakes the pools concerned.
"""

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import kopf

from proserve_operator.kube_client import MANAGED, KubeError
from proserve_operator.names import ANNOTATION_PREFIX

logger = logging.getLogger(__name__)

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
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Between tries of a request that was refused; the last one for ever."""
STOP_S = 10.0
"""How long watches may take to end."""


class _Pauses:
    """kopf takes any iterable; one without an end makes it go on trying. Else it ends the operator after a minute, and
    a namespace that is gone, with the right to list there, would end it at each start."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain(PAUSES_S, itertools.repeat(PAUSES_S[-1]))


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

    Raises:
        KubeError: a watch was ended for good.
    """
    tasks = await kopf.spawn_tasks(
        registry=handlers, clusterwide=not namespaces, namespaces=namespaces, standalone=True, ready_flag=ready
    )
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            try:
                task.result()
            except Exception as error:
                await _stop(_watchers())
                raise KubeError(0, f"{task.get_name()} has ended: {error}") from error
    finally:
        await _stop(set(tasks))


def _watchers() -> set[asyncio.Task[Any]]:
    """kopf's task for each watch. When one fails, kopf ends without the others. They end by themselves only while what
    they have begun still runs: cancelled all at once, as at the end of `asyncio.run`, they wait for each other."""
    return {task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for ")}


async def _stop(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=STOP_S)
        for task in left:
            logger.warning("%s does not end", task.get_name())


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
    settings.networking.error_backoffs = _Pauses()
    settings.watching.server_timeout = WATCH_MINUTES * 60
    settings.watching.chunk_size = 500
    # Kinds and namespaces are given; looking for others would need the right to see them.
    settings.scanning.disabled = True
    for resource in _CHILD_RESOURCES.values():
        settings.watching.label_selectors[resource] = MANAGED
    settings.persistence.finalizer = f"{ANNOTATION_PREFIX}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=ANNOTATION_PREFIX)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=ANNOTATION_PREFIX)
