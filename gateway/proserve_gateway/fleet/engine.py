"""One engine as the gateway knows it, and the engines of one pool (`fleet` keeps them)."""

import math

from proserve_core.routing import Dispatched, EngineView
from proserve_core.routing.step_watch import StepWatch
from proserve_gateway.fleet.health import EngineHealth
from proserve_gateway.fleet.lease import Lease
from proserve_gateway.fleet.pool_queue import PoolQueue
from proserve_gateway.fleet.progress import LONGER, Progress, longest_step_s
from proserve_gateway.fleet.target import Endpoint, EngineTarget


class Engine:
    """One engine: address, health, and the view that policies read."""

    __slots__ = (
        "endpoint", "health", "last_error", "leases", "polled_s", "progress", "target", "view", "watch", "worked_s",
    )  # fmt: skip

    def __init__(self, target: EngineTarget) -> None:
        self.target = target
        self.endpoint: Endpoint = target.endpoint(has_capacity=False)
        self.health = EngineHealth()
        self.view = EngineView(name=target.name, snapshot=None, snapshot_s=0.0, dispatched={})
        self.leases: set[Lease] = set()
        """Of own requests there."""
        self.polled_s: float | None = None
        """When the last poll was answered."""
        self.progress = Progress()
        self.worked_s = -math.inf
        """When an own request there brought something last."""
        self.last_error = ""
        """Why the last poll or request failed, for people."""
        self.watch: StepWatch | None = None
        """Learns the speed of an engine that publishes no capacity, where requests wait for it."""

    def poll_answered(self, now_s: float, *, draining: bool, sign: object, stuck_s: float) -> None:
        """What the poll brought is in the view. `sign`: see `Progress.look`; `stuck_s`: how long the engine may show
        nothing of its work."""
        health, snapshot = self.health, self.view.snapshot
        health.poll_answered(draining=draining)
        self.polled_s = now_s
        at_work = bool(self.leases) or (snapshot is not None and snapshot.running + snapshot.waiting > 0)
        self.progress.look(sign, at_work=at_work, worked_s=self.worked_s, now_s=now_s)
        quiet_s = self.progress.quiet_s
        health.stuck = quiet_s >= stuck_s and quiet_s >= LONGER * longest_step_s(self.view)
        if health.stuck:
            self.last_error = f"has computed nothing for {quiet_s:.0f} s, though it has work and answers its polls"

    def watched(self, watch: StepWatch, entry: Dispatched, count: int, at_s: float) -> None:
        """Tokens passed of one of the requests there."""
        view = self.view
        if watch.tokens(entry, count, at_s, view.dispatched):
            view.latency, view.speed_known = watch.latency, True
            view.revision += 1

    def retarget(self, target: EngineTarget) -> None:
        """The same server, perhaps with another key or authority."""
        if target != self.target:
            self.target = target
            self.endpoint = target.endpoint(has_capacity=self.endpoint.has_capacity, is_vllm=self.endpoint.is_vllm)


class EngineGroup:
    """The engines of one pool, who waits for them, and the tuple of those that may take work."""

    __slots__ = ("dirty", "engines", "policy", "queue", "recheck_s", "usable")

    def __init__(self, policy: str, queue: PoolQueue) -> None:
        self.policy = policy
        """Name of the routing policy."""
        self.queue = queue
        self.engines: dict[str, Engine] = {}
        self.usable: tuple[EngineView, ...] = ()
        self.dirty = True
        self.recheck_s = float("inf")
        """When an open circuit's time is up."""

    def views(self, now_s: float) -> tuple[EngineView, ...]:
        if self.dirty or now_s >= self.recheck_s:
            self.usable = tuple(e.view for e in self.engines.values() if e.health.takes_work(now_s))
            self.recheck_s = min((e.health.reopens_s(now_s) for e in self.engines.values()), default=float("inf"))
            self.dirty = False
        return self.usable
