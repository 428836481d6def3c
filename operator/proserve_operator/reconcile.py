"""Makes one EnginePool what it should be: objects first, then the status that tells of them.

Idempotent and without memory of what was done before: it compares what should be with what the watches show, and acts
on the difference. What the API server refuses becomes a condition of the pool; what may go well later is tried again.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from proserve_core.pools import EnginePool
from proserve_core.resources.conditions import Reason
from proserve_operator.accepted import Accepted
from proserve_operator.conditions import Condition, shortened
from proserve_operator.deletion_cost import price_pods
from proserve_operator.desired import desired_objects
from proserve_operator.drift import differs
from proserve_operator.figures import pool_figures
from proserve_operator.kube_client import Kube, KubeError
from proserve_operator.names import FIELD_MANAGER, child_name, qualified_name
from proserve_operator.overlay import OverlayError
from proserve_operator.pool_scaling import PoolScaling
from proserve_operator.pool_status import Observed
from proserve_operator.reports import Reports
from proserve_operator.settings import OperatorSettings
from proserve_operator.status_writer import StatusWriter
from proserve_operator.store import Key, Object, Store, pool_key
from proserve_operator.work_queue import Retry

logger = logging.getLogger(__name__)

CHILDREN = ("Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "Deployment")
"""Kinds of what is made for a pool."""


class Refused(Exception):  # noqa: N818 - becomes a condition
    """An object of the pool can't be made as it is."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PoolReconciler:
    """Works on EnginePools by key."""

    def __init__(
        self,
        *,
        kube: Kube,
        store: Store,
        accepted: Accepted,
        scaling: PoolScaling,
        reports: Reports,
        statuses: StatusWriter,
        settings: OperatorSettings,
        with_monitor: Callable[[], bool],
    ) -> None:
        self._kube = kube
        self._store = store
        self._accepted = accepted
        self._scaling = scaling
        self._reports = reports
        self._statuses = statuses
        self._settings = settings
        self._with_monitor = with_monitor

    async def reconcile(self, key: Key) -> float | None:
        """Look at one pool; after how many seconds to look again, None: when something changes.

        Raises:
            Retry: the API server could not do what was asked of it now.
        """
        body = self._store.get("EnginePool", key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            # Its objects go with it: they have it as their owner.
            self._scaling.forget(key)
            self._statuses.forget("EnginePool", key)
            return None
        generation = self._accepted.judged_generation("EnginePool", body)
        if generation is None:
            # Looked at when it is judged.
            return None
        try:
            observed, again_s = await self._observed(key, body)
            figures = pool_figures(self._reports.window, qualified_name(*key))
            later_s = await self._statuses.write_pool(body, observed, figures, generation=generation)
        except KubeError as error:
            if error.status == 404:
                # Deleted meanwhile, and its namespace perhaps: the watch will tell.
                return None
            logger.warning("pool %s/%s: %s; tried again later", *key, error)
            raise Retry(error.retry_after_s) from error
        return min((each for each in (again_s, later_s) if each is not None), default=None)

    async def _observed(self, key: Key, body: Object) -> tuple[Observed, float | None]:
        """Make the objects; what there is to say about it."""
        problems, pool = self._accepted.problems("EnginePool", key), self._accepted.pool(key)
        if pool is None:
            return Observed(problems=problems, pool=None), None
        name, uid = (key[0], child_name(key[1])), body["metadata"]["uid"]
        if pool.scaling is not None and not pool.endpoints:
            await self._find_deployment(name, uid)
        replicas, again_s = self._scaling.decide(key, pool, self._store.get("Deployment", name), body.get("status", {}))
        refusal = None
        if replicas < _replicas(self._store.get("Deployment", name)):
            await price_pods(self._kube, self._reports, pool)
        try:
            await self._make(pool, uid, replicas)
            self._scaling.followed(key)
        except Refused as refused:
            refusal = Condition(type="Ready", status=False, reason=refused.reason, message=shortened(str(refused)))
        observed = Observed(
            problems=problems,
            pool=pool,
            desired=replicas,
            deployment=self._store.get("Deployment", name),
            refusal=refusal,
            scaling=self._scaling.condition(key),
        )
        return observed, again_s

    async def _find_deployment(self, name: Key, uid: str) -> None:
        """How many engines a scaled pool has stands in its Deployment alone, and the list of pools may come before
        that of Deployments: without it the pool would fall to its minimum."""
        if self._store.get("Deployment", name) is None:
            there = await self._kube.get("Deployment", *name)
            if there is not None and _owner(there) == uid:
                self._store.put("Deployment", there)

    async def _make(self, pool: EnginePool, uid: str, replicas: int) -> None:
        try:
            made = desired_objects(
                pool, uid=uid, replicas=replicas, settings=self._settings, with_monitor=self._with_monitor()
            )
        except OverlayError as error:
            raise Refused(Reason.INVALID, str(error)) from error
        for each in made:
            await self._make_one(each, uid)
        wanted = {each["kind"] for each in made}
        name = (pool.namespace, child_name(pool.name))
        for kind in CHILDREN:
            there = self._store.get(kind, name)
            if kind not in wanted and there is not None and _owner(there) == uid:
                await self._kube.delete(kind, *name)
                self._store.remove(kind, name)

    async def _make_one(self, made: Object, uid: str) -> None:
        kind, key = made["kind"], (made["metadata"]["namespace"], made["metadata"]["name"])
        there = self._store.get(kind, key)
        if there is None:
            # The watch shows only objects with our labels, and it may be behind.
            there = await self._kube.get(kind, *key)
        if there is not None:
            if _owner(there) != uid:
                raise _taken(kind, key, there)
            if not differs(made, there):
                self._store.put(kind, there)
                return
        try:
            applied = await self._kube.apply(made, manager=FIELD_MANAGER)
        except KubeError as error:
            if error.retry or error.status == 404:
                raise
            raise Refused(Reason.APPLY_REFUSED, f"{kind} {key[1]}: {error}") from error
        logger.info("applied %s %s/%s", kind, *key)
        self._store.put(kind, applied)


def _replicas(deployment: Mapping[str, Any] | None) -> int:
    replicas: int = (deployment or {}).get("spec", {}).get("replicas", 0)
    return replicas


def _owner(body: Mapping[str, Any]) -> str | None:
    """UID of the object's controller."""
    references = body["metadata"].get("ownerReferences", ())
    return next((each["uid"] for each in references if each.get("controller")), None)


def _taken(kind: str, key: Key, there: Mapping[str, Any]) -> Exception:
    if pool_key(there) is not None and there["metadata"].get("ownerReferences"):
        # Of a pool of the same name that was deleted: garbage collection is about to remove it.
        return Retry(2.0)
    return Refused(Reason.NAME_TAKEN, f"a {kind} {key[1]} exists in namespace {key[0]} and is not this pool's")
