"""The acting operator: watches, a queue of resources to look at, reports of gateways, and an audit now and then.

Everything here lives as long as the leadership does; a new leader begins with what the cluster shows.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator

from proserve_operator.accepted import KINDS, Accepted
from proserve_operator.audit import LAG_S, Audit
from proserve_operator.events import Events
from proserve_operator.kube_client import Kube, KubeError
from proserve_operator.metrics import OperatorMetrics
from proserve_operator.pool_scaling import WAKE_S, PoolScaling
from proserve_operator.reconcile import CHILDREN, PoolReconciler
from proserve_operator.reports import Reports
from proserve_operator.resource_status import ResourceStatuses
from proserve_operator.rollout_turns import RolloutTurns
from proserve_operator.settings import OperatorSettings
from proserve_operator.status_writer import StatusWriter
from proserve_operator.store import Key, Object, Store, key_of, pool_key
from proserve_operator.watching import registry, watch
from proserve_operator.work_queue import Retry, WorkQueue

logger = logging.getLogger(__name__)

WORKERS = 8
JUDGE = ("", ("", ""))
"""The queue's entry for: see which resources are in force now."""
KINDS_LIMIT_S = 120.0
KINDS_CHANGED_AFTER = 2
"""Audits in a row: an API server that has just started does not know all kinds at once."""
JUDGE_AFTER_S = 0.05
"""Changes that come together are judged together."""

Work = tuple[str, Key]


class KindsChangedError(Exception):
    """The cluster got or lost a kind of which objects are made for pools: what is watched is settled at the start."""


class OperatorRun:
    """What a leader does."""

    def __init__(
        self,
        kube: Kube,
        settings: OperatorSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._store = Store()
        self._accepted = Accepted(self._store)
        self._queue: WorkQueue[Work] = WorkQueue(jitter=random.random)
        self._reports = Reports(settings.gateway_admin, key_file=settings.gateway_admin_key_file)
        self._with_monitor = False
        self.metrics = OperatorMetrics(queue_length=self._queue.__len__, resources=self._resources_known)
        events = Events(kube, identity=settings.identity, clock=clock, wall_clock=wall_clock)
        statuses = StatusWriter(
            kube=kube,
            store=self._store,
            events=events,
            clock=clock,
            wall_clock=wall_clock,
            status_s=settings.status_s,
        )
        self._scaling = PoolScaling(self._reports, clock=clock, wall_clock=wall_clock, every_s=settings.report_s)
        self._turns = RolloutTurns(
            kube, self._store, namespaces=settings.namespaces, at_once=settings.max_concurrent_rollouts
        )
        self._pools = PoolReconciler(
            kube=kube,
            store=self._store,
            accepted=self._accepted,
            scaling=self._scaling,
            reports=self._reports,
            statuses=statuses,
            turns=self._turns,
            settings=settings,
            with_monitor=lambda: self._with_monitor,
        )
        self._resources = ResourceStatuses(
            store=self._store,
            accepted=self._accepted,
            reports=self._reports,
            statuses=statuses,
            whole_cluster=not settings.namespaces,
        )
        self._audit: Audit | None = None
        self._kinds_changed = asyncio.Event()
        self._edited: set[Work] = set()
        """Resources that ask for something else than at the last judgement."""
        self._judging_s = 0.0
        """How long the last judgement took."""

    @property
    def unhealthy(self) -> list[str]:
        """Why the process should be started anew."""
        dead = self._audit.dead if self._audit is not None else []
        return [f"the watch of {kind} shows nothing any more" for kind in dead]

    def _resources_known(self) -> Iterator[tuple[str, Object]]:
        return ((kind, body) for kind in KINDS for _, body in self._store.all(kind))

    async def act(self) -> None:
        """Look after the resources until cancelled, or until a signal ends the watches: kopf takes SIGTERM and SIGINT.

        Raises:
            KubeError: for `KINDS_LIMIT_S` the API server did not say what it serves, or does not serve our kinds: one
                that comes later would not be followed.
            KindsChangedError: the process is to be started anew.
        """
        self._with_monitor = await self._kinds_served()
        children = [kind for kind in CHILDREN if kind != "ServiceMonitor" or self._with_monitor]
        self.metrics.begin(own_kinds=KINDS, managed_kinds=children)
        self._audit = Audit(
            self._kube,
            self._store,
            namespaces=self._settings.namespaces,
            managed_kinds=children,
            own_kinds=KINDS,
            fix=self.seen,
            on_missed=lambda kind: self.metrics.missed.labels(kind).inc(),
        )
        ready = asyncio.Event()
        watching = asyncio.ensure_future(
            watch(registry(self.seen, children=children), namespaces=self._settings.namespaces, ready=ready)
        )
        acting = asyncio.ensure_future(self._act(ready, self._audit))
        changed = asyncio.ensure_future(self._kinds_changed.wait())
        try:
            await asyncio.wait({watching, acting, changed}, return_when=asyncio.FIRST_COMPLETED)
            # The watch of a kind that is gone fails, mostly before an audit sees why.
            failed = watching.done() and watching.exception() is not None
            if changed.done() or (failed and await self._other_kinds()):
                found = "no longer has" if self._with_monitor else "now has"
                raise KindsChangedError(f"the cluster {found} the kind ServiceMonitor: to be started anew")
            (watching if watching.done() else acting).result()
        finally:
            for task in (watching, acting, changed):
                task.cancel()
            await asyncio.wait({watching, acting, changed})

    async def _kinds_served(self) -> bool:
        """Wait until our kinds are served: the API server needs a moment for those that were installed together with
        the operator, and may be busy. Tells whether ServiceMonitors are served, too."""
        until_s, told = self._clock() + KINDS_LIMIT_S, ""
        while True:
            try:
                missing = [kind for kind in KINDS if not await self._kube.serves(kind)]
                if not missing:
                    return await self._kube.serves("ServiceMonitor")
                problem = KubeError(
                    0, f"the cluster does not serve {', '.join(missing)}: install the chart proserve-crds"
                )
            except KubeError as error:
                if not error.retry:
                    raise
                problem = error
            if self._clock() >= until_s:
                raise problem
            if str(problem) != told:
                told = str(problem)
                logger.warning("not begun, asked again for %g s: %s", KINDS_LIMIT_S, told)
            await asyncio.sleep(1.0)

    async def _act(self, ready: asyncio.Event, audit: Audit) -> None:
        # The first lists come after this, in any order: what a look needs and the store lacks, it asks for.
        await ready.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run(self._look, workers=WORKERS))
            group.create_task(self._read_reports())
            group.create_task(self._audit_now_and_then(audit))

    def seen(self, kind: str, event: str | None, body: Object) -> None:
        """An object as a watch shows it."""
        self.metrics.events.labels(kind).inc()
        key = key_of(body)
        if event == "DELETED":
            self._store.remove(kind, key)
        elif not self._store.put(kind, body) and (kind not in KINDS or self._accepted.is_current(kind, body)):
            return
        if kind in KINDS:
            # Not what the store knew before: it may know the edit from the reply to a status that was written.
            if event != "DELETED" and self._accepted.is_current(kind, body):
                self._queue.add((kind, key))
                return
            if not self._edited:
                # At most a tenth of the time, however many there are.
                self._queue.add(JUDGE, after_s=max(JUDGE_AFTER_S, 10 * self._judging_s))
            self._edited.add((kind, key))
        elif (pool := pool_key(body)) is not None:
            self._queue.add(("EnginePool", pool))

    async def _look(self, work: Work) -> float | None:
        kind, key = work
        if work == JUDGE:
            self._judge()
            return None
        began_s = self._clock()
        result = "ok"
        try:
            if kind == "EnginePool":
                again_s = await self._pools.reconcile(key)
                for pool in self._turns.next_after(key):
                    self._queue.add(("EnginePool", pool))
                return again_s
            return await self._resources.reconcile(kind, key)
        except Retry:
            result = "retry"
            raise
        except Exception:
            result = "error"
            raise
        finally:
            self.metrics.reconciles.labels(kind, result).inc()
            self.metrics.reconcile_s.labels(kind).observe(self._clock() - began_s)
            if result == "ok":
                self.metrics.last_success_s.labels(kind).set(self._wall_clock())

    def _judge(self) -> None:
        """See what is in force now, and wake the resources that it is about."""
        began_s = self._clock()
        judged = self._accepted.judge()
        edited, self._edited = self._edited, set()
        for work in edited | judged:
            self._queue.add(work)
        self._judging_s = self._clock() - began_s

    async def _read_reports(self) -> None:
        while True:
            await self._reports.read(now_s=self._clock())
            self.metrics.gateways.set(len(self._reports.newest))
            self.metrics.gateways_silent.set(self._reports.silent)
            self._wake_those_with_news()
            report_s = self._settings.report_s
            await asyncio.sleep(min(WAKE_S, report_s) if self._scaling.may_wake else report_s)

    def _wake_those_with_news(self) -> None:
        """Of thousands of resources few have other figures than a moment ago."""
        for kind in KINDS:
            for key, body in self._store.all(kind):
                if self._resources.has_news(kind, key, body):
                    self._queue.add((kind, key))

    async def _other_kinds(self) -> bool:
        """Whether the cluster has got or lost a kind since the start. One that came is of interest only if objects are
        made of it; one that was there is watched in any case, since what an earlier operator made is removed."""
        there = await self._kube.serves("ServiceMonitor")
        return there != self._with_monitor and (self._settings.monitors or not there)

    async def _audit_now_and_then(self, audit: Audit) -> None:
        changed = 0
        while True:
            await asyncio.sleep(self._settings.resync_s * (0.9 + 0.2 * random.random()))
            try:
                changed = changed + 1 if await self._other_kinds() else 0
                if changed == KINDS_CHANGED_AFTER:
                    self._kinds_changed.set()
                    return
                differs = await audit.look()
                self.metrics.unlisted.set(audit.unlisted)
                if differs:
                    await asyncio.sleep(LAG_S)
                    await audit.settle()
            except KubeError as error:
                logger.warning("the audit of the watches is put off: %s", error)
            for kind in KINDS:
                for key, _ in self._store.all(kind):
                    self._queue.add((kind, key))


def log_level_of_libraries() -> None:
    """Their lines about each watch and event say nothing that ours don't."""
    for name in ("kopf", "aiohttp", "kubernetes"):
        logging.getLogger(name).setLevel(logging.WARNING)
