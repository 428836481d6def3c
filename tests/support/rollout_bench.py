"""Several pools, an operator that is replaced by another one, and a Deployment controller that does as a test says."""

import asyncio
from typing import Any

from fake_kube import FakeKube, Object
from proserve_operator.accepted import Accepted
from proserve_operator.events import Events
from proserve_operator.pool_scaling import PoolScaling
from proserve_operator.reconcile import PoolReconciler
from proserve_operator.reports import Reports
from proserve_operator.rollout_turns import RolloutTurns, is_rolling, rollout_state
from proserve_operator.settings import OperatorSettings
from proserve_operator.status_writer import StatusWriter
from proserve_operator.store import Store
from resource_builders import engine_pool


class CountingKube(FakeKube):
    """Counts generations of Deployments, and lets others go on while it works."""

    async def apply(self, made: Object, *, manager: str, subresource: str = "") -> Object:
        await asyncio.sleep(0)
        known = self.objects.get(self._key(made))
        applied = await super().apply(made, manager=manager, subresource=subresource)
        if made["kind"] != "Deployment":
            return applied
        generation = 1 if known is None else known["metadata"]["generation"] + (known["spec"] != made["spec"])
        applied["metadata"]["generation"] = generation
        return self.put(applied)


class RolloutBench:
    """Pools by name, in the namespace `default`, each with one engine that is ready."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.kube = CountingKube()
        for name in names:
            self.edit(name)

    def edit(self, name: str, **pool: Any) -> None:
        """The pool as a user writes it."""
        body = engine_pool(name, model={"name": name, "uri": "generated://tiny"}, **pool)
        known = self.kube.objects.get(("EnginePool", "default", name), {})
        generation = known.get("metadata", {}).get("generation", 0) + 1
        body["metadata"] |= {"namespace": "default", "uid": name, "generation": generation}
        self.kube.put({**body, "status": known.get("status", {})})

    def start_operator(self, *, image: str, at_once: int = 2, seen: bool = True) -> None:
        """Another process, whose watches have shown Deployments, or pools only."""
        store, clock = Store(), lambda: 1000.0
        self.store, self.accepted = store, Accepted(store)
        self.watch(deployments=seen)
        reports = Reports(None)
        events = Events(self.kube, identity="me", clock=clock, wall_clock=clock)
        self.turns = RolloutTurns(self.kube, store, namespaces=(), at_once=at_once)
        self.reconciler = PoolReconciler(
            kube=self.kube,
            store=store,
            accepted=self.accepted,
            scaling=PoolScaling(reports, clock=clock, wall_clock=clock, every_s=15.0),
            reports=reports,
            statuses=StatusWriter(
                kube=self.kube, store=store, events=events, clock=clock, wall_clock=clock, status_s=60.0
            ),
            turns=self.turns,
            settings=OperatorSettings(engine_image=image),
            with_monitor=lambda: False,
        )

    def watch(self, *, deployments: bool = True) -> None:
        """What has changed is shown."""
        for (kind, _, _), body in self.kube.objects.items():
            if kind == "EnginePool" or (deployments and kind == "Deployment"):
                self.store.put(kind, body)
        self.accepted.judge()

    async def look(self, *names: str) -> None:
        """At these pools, at once, and then at those whose turn it is."""
        looking = {("default", name) for name in names or self.names}
        while looking:
            await asyncio.gather(*(self.reconciler.reconcile(key) for key in sorted(looking)))
            looking = {woken for key in looking for woken in self.turns.next_after(key)}

    async def engines_are_replaced(self, *names: str) -> None:
        """As the Deployment's controller says, of those that nobody holds; and what the operator does then."""
        for name in names:
            body = self.deployment(name)
            if not body["spec"].get("paused"):
                counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas"), body["spec"]["replicas"])
                done = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
                seen = {"observedGeneration": body["metadata"]["generation"]}
                self.kube.put({**body, "status": {**counts, **seen, "conditions": [done]}})
        self.watch()
        await self.look(*names)

    def deployment(self, name: str) -> Any:
        return self.kube.objects["Deployment", "default", f"engine-{name}"]

    def image(self, name: str) -> Any:
        return self.deployment(name)["spec"]["template"]["spec"]["containers"][0]["image"]

    @property
    def rolling(self) -> list[str]:
        """Pools whose engines are being replaced."""
        return [name for name in self.names if is_rolling(self.deployment(name))]

    @property
    def waiting(self) -> list[str]:
        """Pools that wait for their turn, all of which are held."""
        found = [name for name in self.names if rollout_state(self.deployment(name)) == "waiting"]
        assert all(self.deployment(name)["spec"].get("paused") for name in found)
        return found

    def ready(self, name: str) -> tuple[str, str]:
        """Status and reason of that condition of a pool."""
        rows = self.kube.objects["EnginePool", "default", name]["status"]["conditions"]
        (found,) = (each for each in rows if each["type"] == "Ready")
        return found["status"], found["reason"]
