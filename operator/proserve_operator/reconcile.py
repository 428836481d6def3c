"""Makes one EnginePool what it should be: objects first, then the status that tells of them.

Idempotent and without memory of what was done before: it compares what should be with what the watches show, and acts
on the difference. What the API server refuses becomes a condition of the pool; what may go well later is tried again,
and is a condition, too, when it has not gone well several times in a row.
"""

import logging
from collections.abc import Callable, Container, Mapping
from typing import Any

from proserve_core.pools import EnginePool
from proserve_core.resources.conditions import Reason
from proserve_operator.accepted import Accepted
from proserve_operator.deletion_cost import price_pods
from proserve_operator.desired import NEEDED, desired_objects
from proserve_operator.drift import differs
from proserve_operator.figures import pool_figures
from proserve_operator.keys_condition import keys_condition
from proserve_operator.kube_client import Kube, KubeError
from proserve_operator.names import FIELD_MANAGER, child_name, qualified_name
from proserve_operator.overlay import OverlayError
from proserve_operator.pool_scaling import PoolScaling
from proserve_operator.pool_status import Observed, Refusal
from proserve_operator.reports import Reports
from proserve_operator.rollout_turns import RolloutTurns
from proserve_operator.settings import OperatorSettings
from proserve_operator.status_writer import FAILURES_TOLD, StatusWriter
from proserve_operator.store import Key, Object, Store, pool_key
from proserve_operator.work_queue import Retry

logger = logging.getLogger(__name__)

CHILDREN = ("Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "Deployment")
"""Kinds of what is made for a pool."""


class Refused(Exception):  # noqa: N818 - becomes a condition
    """An object of the pool can't be made as it is."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(reason=reason, message=message)


class Gone(Exception):  # noqa: N818 - nothing is wrong
    """The pool was deleted meanwhile, and its namespace perhaps: the watch will tell."""


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
        turns: RolloutTurns,
        settings: OperatorSettings,
        with_monitor: Callable[[], bool],
    ) -> None:
        self._kube = kube
        self._store = store
        self._accepted = accepted
        self._scaling = scaling
        self._reports = reports
        self._statuses = statuses
        self._turns = turns
        self._settings = settings
        self._with_monitor = with_monitor
        self._failures: dict[Key, int] = {}
        """Looks in a row after which the API server could not do everything."""

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
            self._failures.pop(key, None)
            return None
        generation = self._accepted.judged_generation("EnginePool", body)
        if generation is None:
            # Looked at when it is judged.
            return None
        try:
            observed, again_s, failure = await self._observed(key, body, generation)
            if failure is not None and self._failures[key] < FAILURES_TOLD:
                # Most pass before anybody needs to know.
                raise failure
            figures = pool_figures(self._reports.window, qualified_name(*key))
            later_s = await self._statuses.write_pool(body, observed, figures, generation=generation)
        except Gone:
            return None
        except KubeError as error:
            if error.status == 404:
                return None
            failure = error
        if failure is not None:
            logger.warning("pool %s/%s: %s; tried again later", *key, failure)
            raise Retry(failure.retry_after_s) from failure
        return min((each for each in (again_s, later_s) if each is not None), default=None)

    async def _observed(
        self, key: Key, body: Object, generation: int
    ) -> tuple[Observed, float | None, KubeError | None]:
        """Make the objects; what there is to say about it, when to look again, and what did not go well for now."""
        problems, pool = self._accepted.problems("EnginePool", key), self._accepted.pool(key)
        keys = keys_condition(self._reports, "EnginePool", key, body)
        if pool is None:
            return Observed(problems=problems, pool=None, keys=keys), None, None
        name, uid = (key[0], child_name(key[1])), body["metadata"]["uid"]
        if pool.scaling is not None and not pool.endpoints:
            await self._find_deployment(name, body)
        replicas, again_s = self._scaling.decide(key, pool, self._store.get("Deployment", name), body.get("status", {}))
        if replicas < _replicas(self._store.get("Deployment", name)):
            await price_pods(self._kube, self._reports, pool)
        refused, failed = await self._make(pool, uid, replicas, generation)
        self._failures[key] = self._failures.get(key, 0) + 1 if failed else 0
        refusal = refused[0].refusal if refused else None
        if refusal is None and failed:
            refusal = Refusal(reason=Reason.APPLY_FAILS, message=str(failed[0]))
        observed = Observed(
            problems=problems,
            pool=pool,
            desired=replicas,
            deployment=self._store.get("Deployment", name),
            refusal=refusal,
            scaling=self._scaling.condition(key),
            keys=keys,
        )
        return observed, again_s, failed[0] if failed else None

    async def _find_deployment(self, name: Key, body: Object) -> None:
        """How many engines a scaled pool has stands in its Deployment alone, and the list of pools may come before
        that of Deployments: without it the pool would fall to its minimum.

        Raises:
            KubeError: it can't be read, so there is neither anything to do nor anything to say.
        """
        if self._store.get("Deployment", name) is None:
            try:
                there = await self._kube.get("Deployment", *name)
            except KubeError as error:
                await self._statuses.failed("EnginePool", body, error)
                raise
            if there is not None and _owner(there) == body["metadata"]["uid"]:
                self._store.put_reply("Deployment", there, asked=None)

    async def _make(
        self, pool: EnginePool, uid: str, replicas: int, generation: int
    ) -> tuple[list[Refused], list[KubeError]]:
        """What is refused for good and what for now. Engines need some objects, and the others hinder nobody.

        Raises:
            Gone: there is no such pool any more.
        """
        refused: list[Refused] = []
        failed: list[KubeError] = []
        try:
            made = desired_objects(
                pool, uid=uid, replicas=replicas, settings=self._settings, with_monitor=self._with_monitor()
            )
        except OverlayError as error:
            return [Refused(Reason.INVALID, str(error))], []
        for each in made:
            try:
                await self._make_one(each, pool, uid, generation)
            except Refused as error:
                refused.append(error)
            except KubeError as error:
                failed.append(error)
            if (refused or failed) and each["kind"] in NEEDED:
                return refused, failed
        self._scaling.followed((pool.namespace, pool.name))
        try:
            await self._remove_others(pool, uid, wanted={each["kind"] for each in made})
        except KubeError as error:
            failed.append(error)
        return refused, failed

    async def _remove_others(self, pool: EnginePool, uid: str, *, wanted: Container[str]) -> None:
        name = (pool.namespace, child_name(pool.name))
        for kind in CHILDREN:
            there = self._store.get(kind, name)
            if kind not in wanted and there is not None and _owner(there) == uid:
                await self._kube.delete(kind, *name)
                self._store.remove(kind, name)

    async def _make_one(self, made: Object, pool: EnginePool, uid: str, generation: int) -> None:
        kind, key = made["kind"], (made["metadata"]["namespace"], made["metadata"]["name"])
        there = asked = self._store.get(kind, key)
        if there is None:
            # The watch shows only objects with our labels, and it may be behind.
            there = await self._kube.get(kind, *key)
        if there is not None and _owner(there) != uid:
            raise _taken(kind, key, there)
        if kind == "Deployment":
            made = await self._turns.arrange(made, there, generation=generation)
        if there is not None and not differs(made, there):
            self._store.put_reply(kind, there, asked=asked)
            return
        try:
            applied = await self._kube.apply(made, manager=FIELD_MANAGER)
        except KubeError as error:
            if kind == "Deployment":
                self._turns.applied(key, None)
            if error.retry:
                raise
            if error.status == 404 and await self._is_gone(pool, uid):
                raise Gone from error
            # 404 of a pool that is there: its kind is not served any more.
            raise Refused(Reason.APPLY_REFUSED, f"{kind} {key[1]}: {error}") from error
        logger.info("applied %s %s/%s", kind, *key)
        self._store.put_reply(kind, applied, asked=asked)
        if kind == "Deployment":
            self._turns.applied(key, applied)

    async def _is_gone(self, pool: EnginePool, uid: str) -> bool:
        there = await self._kube.get("EnginePool", pool.namespace, pool.name)
        return there is None or there["metadata"]["uid"] != uid or "deletionTimestamp" in there["metadata"]


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
        return KubeError(409, f"{kind} {key[1]} is of a pool that was deleted", retry_after_s=2.0)
    return Refused(Reason.NAME_TAKEN, f"a {kind} {key[1]} exists in namespace {key[0]} and is not this pool's")
