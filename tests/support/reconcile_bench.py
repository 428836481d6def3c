"""A pool's reconciler over a cluster in memory, with a clock of its own and gateways that report what a test says."""

from typing import Any

import pytest

from fake_kube import FakeKube
from proserve_core.gain import GainTotals, LossCause
from proserve_core.gain_report import EngineReport, GainReport
from proserve_operator.accepted import Accepted
from proserve_operator.events import Events
from proserve_operator.pool_scaling import PoolScaling
from proserve_operator.reconcile import PoolReconciler
from proserve_operator.reports import Reports
from proserve_operator.rollout_turns import RolloutTurns
from proserve_operator.settings import OperatorSettings
from proserve_operator.status_writer import StatusWriter
from proserve_operator.store import Store
from proserve_operator.work_queue import Retry
from resource_builders import Data, engine_pool

KEY = ("default", "tiny")


class ReconcileBench:
    """One pool, `tiny`."""

    def __init__(self, **pool: Any) -> None:
        self.now_s = 1000.0
        self.with_monitor = False
        """Whether the cluster has the Prometheus operator."""
        self.kube = FakeKube()
        self.store = Store()
        self.accepted = Accepted(self.store)
        self.reports = Reports(None)
        clock = lambda: self.now_s  # noqa: E731
        events = Events(self.kube, identity="me", clock=clock, wall_clock=clock)
        self.reconciler = PoolReconciler(
            kube=self.kube,
            store=self.store,
            accepted=self.accepted,
            scaling=PoolScaling(self.reports, clock=clock, wall_clock=clock, every_s=15.0),
            reports=self.reports,
            statuses=StatusWriter(
                kube=self.kube, store=self.store, events=events, clock=clock, wall_clock=clock, status_s=60.0
            ),
            turns=RolloutTurns(self.kube, self.store, namespaces=(), at_once=5),
            settings=OperatorSettings(),
            with_monitor=lambda: self.with_monitor,
        )
        self.edit(**pool)

    def edit(self, *, uid: str = "u", **pool: Any) -> None:
        """The pool as a user writes it, and judged."""
        self.edit_unseen(uid=uid, **pool)
        self.accepted.judge()

    def edit_unseen(self, *, uid: str = "u", **pool: Any) -> None:
        """An edit that nobody judged yet; with another `uid` the pool is deleted and made again."""
        body: Data = engine_pool("tiny", **pool)
        known = self.kube.objects.get(("EnginePool", *KEY), {})
        if known.get("metadata", {}).get("uid") != uid:
            known = {}
        generation = known.get("metadata", {}).get("generation", 0) + (known.get("spec") != body["spec"])
        body["metadata"] |= {"namespace": "default", "uid": uid, "generation": generation}
        self.store.put("EnginePool", self.kube.put({**body, "status": known.get("status", {})}))

    async def look(self) -> float | None:
        return await self.reconciler.reconcile(KEY)

    async def quiet_look(self) -> list[str]:
        """Requests of one more look."""
        self.kube.requests.clear()
        await self.look()
        return list(self.kube.requests)

    async def failing_looks(self, count: int) -> None:
        """As the queue does it: again and again."""
        for _ in range(count):
            with pytest.raises(Retry):
                await self.look()

    def told(self, reason: str) -> list[str]:
        """Texts of events."""
        return [event["note"] for event in self.kube.events if event["reason"] == reason]

    @property
    def deployment(self) -> Any:
        return self.kube.objects["Deployment", "default", "engine-tiny"]

    def _row(self, name: str) -> Any:
        rows = self.kube.objects["EnginePool", *KEY]["status"]["conditions"]
        (found,) = (each for each in rows if each["type"] == name)
        return found

    def condition(self, name: str) -> tuple[str, str]:
        return self._row(name)["status"], self._row(name)["reason"]

    def message(self, name: str) -> Any:
        return self._row(name)["message"]

    @property
    def observed_generations(self) -> set[int]:
        """What the status says that it is about."""
        status = self.kube.objects["EnginePool", *KEY]["status"]
        return {status["observedGeneration"], *(each["observedGeneration"] for each in status["conditions"])}

    def engines_are(self, ready: int) -> None:
        """As the Deployment's controller says."""
        body = {**self.deployment, "status": {"readyReplicas": ready, "replicas": ready, "updatedReplicas": ready}}
        self.store.put("Deployment", self.kube.put(body))

    def report(self, *, requests: int, lost: float, waiting: int = 0, stakes: dict[str, float] | None = None) -> None:
        """A gateway's sums so far: each request is worth 1. `waiting` have not ended."""
        totals = GainTotals(
            requests=requests, earnable=float(requests), earned=requests - lost, lost={LossCause.SHED: lost}
        )
        self.reports.newest = [
            GainReport(
                instance="g", classes={}, tenants={}, pools={"tiny": {"high": totals}},
                engines=[
                    EngineReport(name=name, pool="tiny", ready=True, stake=stake)
                    for name, stake in (stakes or {}).items()
                ],
                loss_with_one_less={"tiny": 1.0},
                open_requests={"tiny": waiting} if waiting else {},
            )
        ]  # fmt: skip
        self.reports.window.take(self.reports.newest, now_s=self.now_s)
