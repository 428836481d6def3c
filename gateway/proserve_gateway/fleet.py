"""The gateway's picture of its engines, and the choice of one for each request (ROUTING, sections 1 and 2).

Polls write snapshots in, leases write own dispatches in; routing policies read both through `FleetView`. The engines
that may take work are kept as a ready tuple per pool, rebuilt only when something changed, so that a choice costs the
policy and little else. No I/O and no clock of its own: the poller feeds it, `clock` is injected.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from proserve_core.capacity import CapacitySnapshot
from proserve_core.pools import DEFAULT_ROUTING_POLICY
from proserve_core.routing import Dispatched, EngineView, FleetView, RouteDecision, RoutingPolicy, RoutingRequest
from proserve_gateway.errors import ApiError
from proserve_gateway.fleet_health import EngineHealth
from proserve_gateway.fleet_match import mark_counted
from proserve_gateway.fleet_status import EngineStatus, engine_status
from proserve_gateway.fleet_target import Endpoint, EngineTarget, TargetError

RETRY_AFTER_S = 1.0
"""What a client is told when no engine is usable: about the time of a poll or of a circuit's first opening."""
ONLY_ENGINE = "only engine that may take work"
"""Reason of a choice that no policy was asked for."""


class Outcome(StrEnum):
    """How a request ended at its engine."""

    ANSWERED = "answered"
    """The engine did its part, a refusal of the request itself (4xx) included."""
    FAILED = "failed"
    """Connection refused or broken, time-out, server error."""
    CANCELLED = "cancelled"
    """Ended by us or by the client; says nothing about the engine."""


class Watched(Protocol):
    """An exchange with an engine, as far as the fleet is concerned."""

    def give_up_if_silent(self) -> None:
        """The engine does not answer its polls."""


class Engine:
    """One engine: address, health, and the view that policies read."""

    __slots__ = ("endpoint", "health", "last_error", "leases", "polled_s", "target", "view")

    def __init__(self, target: EngineTarget) -> None:
        self.target = target
        self.endpoint: Endpoint = target.endpoint(has_capacity=False)
        self.health = EngineHealth()
        self.view = EngineView(name=target.name, snapshot=None, snapshot_s=0.0, dispatched={})
        self.leases: set[Lease] = set()
        """Of own requests there."""
        self.polled_s: float | None = None
        """When the last poll was answered."""
        self.last_error = ""
        """Why the last poll or request failed, for people."""

    def retarget(self, target: EngineTarget) -> None:
        """The same server, perhaps with another key."""
        if target.api_key != self.target.api_key:
            self.target = target
            self.endpoint = target.endpoint(has_capacity=self.endpoint.has_capacity, is_vllm=self.endpoint.is_vllm)


class Lease:
    """One request's place at an engine, from the choice to its end. The first close counts."""

    __slots__ = ("_dispatched", "_engine", "_fleet", "_open", "decision", "endpoint", "exchange")

    def __init__(self, *, fleet: "Fleet", engine: Engine, dispatched: Dispatched, decision: RouteDecision) -> None:
        self._fleet = fleet
        self._engine = engine
        self._dispatched = dispatched
        self._open = True
        self.endpoint = engine.endpoint
        self.decision = decision
        self.exchange: Watched | None = None

    def watch(self, exchange: Watched) -> None:
        """Give this exchange up when the engine is lost and it is silent."""
        self.exchange = exchange

    def on_tokens(self, count: int) -> None:
        """The engine emitted `count` tokens of the request."""
        if not self._dispatched.emitted_tokens and not self._engine.health.circuit_closed:
            self._engine.health.request_answered()
            self._fleet.invalidate(self._engine.target.pool)
        self._dispatched.emitted_tokens += count

    def close(self, outcome: Outcome, error: str = "") -> None:
        """The request ended there; `error` says why it failed."""
        if not self._open:
            return
        self._open = False
        self._fleet.release(self, self._engine, self._dispatched, outcome, error)


class _Group:
    """The engines of one pool, its policy, and the tuple of those that may take work."""

    __slots__ = ("dirty", "engines", "policy", "recheck_s", "router", "usable")

    def __init__(self, policy: str, router: RoutingPolicy) -> None:
        self.policy = policy
        """Name of `router`."""
        self.router = router
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


class Fleet:
    """All engines of all pools."""

    def __init__(
        self,
        *,
        make_router: Callable[[str], RoutingPolicy],
        clock: Callable[[], float],
        on_decision: Callable[[str, str], None] | None = None,
    ) -> None:
        """`make_router(policy)` makes a routing policy, `on_decision(pool, reason)` is told each choice."""
        self._make_router = make_router
        self._clock = clock
        self._on_decision = on_decision
        self._groups: dict[str, _Group] = {}
        self._engines: dict[str, Engine] = {}
        self._listeners: list[Callable[[], None]] = []

    # Membership

    def set_targets(self, targets: Sequence[EngineTarget], policies: Mapping[str, str] | None = None) -> None:
        """Replace the list of engines. `policies` are the routing policies of pools that don't have the default one.

        Engines that are the same server as before keep their state, and so does the policy of a pool unless it gets
        another one; requests at removed engines run on.

        Raises:
            TargetError: two targets have one name or an address cannot be used; nothing changes then.
            ValueError: a policy does not exist; nothing changes then.
        """
        engines: dict[str, Engine] = {}
        members: dict[str, dict[str, Engine]] = {}
        for target in targets:
            if target.name in engines:
                raise TargetError(f"engine name {target.name!r} is used twice: give each engine its own name")
            known = self._engines.get(target.name)
            target.capacity_endpoint()
            same = known is not None and target.same_server(known.target)
            engine = known if known is not None and same else Engine(target)
            engines[target.name] = members.setdefault(target.pool, {})[target.name] = engine
        groups: dict[str, _Group] = {}
        for pool in members:
            policy = (policies or {}).get(pool, DEFAULT_ROUTING_POLICY)
            group = self._groups.get(pool)
            if group is None or group.policy != policy:
                group = _Group(policy, self._make_router(policy))
            groups[pool] = group
        for target in targets:
            engines[target.name].retarget(target)
        for pool, group in groups.items():
            group.engines = members[pool]
            group.dirty = True
        self._engines, self._groups = engines, groups
        for listener in self._listeners:
            listener()

    def on_targets(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the list of engines changed."""
        self._listeners.append(listener)

    @property
    def engines(self) -> Collection[Engine]:
        return self._engines.values()

    # Choice

    def choose(self, pool: str, request: RoutingRequest, exclude: frozenset[str] = frozenset()) -> Lease:
        """Give the request to an engine of the pool.

        Raises:
            ApiError: 503 when no engine of the pool, `exclude` aside, may take work.
        """
        now_s = self._clock()
        group = self._groups.get(pool)
        views: Sequence[EngineView] = group.views(now_s) if group is not None else ()
        if exclude:
            views = [view for view in views if view.name not in exclude]
        if group is None or not views:
            raise self._no_engine(pool, now_s)
        if len(views) == 1:
            # Nothing to weigh, so nothing is predicted either: the record shows it by what is missing.
            decision = RouteDecision(engine=views[0].name, reason=ONLY_ENGINE, candidates=(views[0].name,))
        else:
            decision = group.router.choose(request, FleetView(now_s=now_s, engines=views))
        engine = group.engines[decision.engine]
        if not engine.health.circuit_closed:
            engine.health.request_sent()
            group.dirty = True
        dispatched = Dispatched(request=request, sent_s=now_s)
        engine.view.dispatched[request.id] = dispatched
        if self._on_decision is not None:
            self._on_decision(pool, decision.reason)
        lease = Lease(fleet=self, engine=engine, dispatched=dispatched, decision=decision)
        engine.leases.add(lease)
        return lease

    def release(self, lease: Lease, engine: Engine, dispatched: Dispatched, outcome: Outcome, error: str) -> None:
        """End of a lease."""
        engine.leases.discard(lease)
        engine.view.dispatched.pop(dispatched.request.id, None)
        health = engine.health
        was_closed = health.circuit_closed
        if outcome is Outcome.FAILED:
            health.request_failed(self._clock())
            engine.last_error = error
        elif outcome is Outcome.ANSWERED:
            health.request_answered()
        else:
            health.request_abandoned()
        if not (was_closed and health.circuit_closed):
            self.invalidate(engine.target.pool)

    def invalidate(self, pool: str) -> None:
        """Something that decides who may take work changed."""
        group = self._groups.get(pool)
        if group is not None:
            group.dirty = True

    def _no_engine(self, pool: str, now_s: float) -> ApiError:
        states = {name: str(e.health.state(now_s)) for name, e in self._engines.items() if e.target.pool == pool}
        known = ", ".join(f"{name} {state}" for name, state in states.items()) or "it has no engines"
        return ApiError(
            status=503,
            code="no_engine_available",
            error_type="server_error",
            message=f"no engine of pool {pool} can take requests now ({known}); try again",
            retry_after_s=RETRY_AFTER_S,
        )

    # What polls found

    def snapshot_arrived(self, engine: Engine, snapshot: CapacitySnapshot) -> None:
        """A poll brought the engine's state."""
        now_s = self._clock()
        view = engine.view
        if view.snapshot is not None and view.snapshot.engine_id != snapshot.engine_id:
            for dispatched in view.dispatched.values():
                dispatched.in_snapshot = False
        view.snapshot = snapshot
        view.snapshot_s = now_s - snapshot.age_s
        mark_counted(view.dispatched, snapshot, view.snapshot_s)
        if not engine.endpoint.has_capacity:
            engine.endpoint = engine.target.endpoint(has_capacity=True)
        self._answered(engine, now_s, draining=snapshot.draining)

    def probe_answered(self, engine: Engine, *, is_vllm: bool = False) -> None:
        """The engine answers but publishes no capacity: only own dispatches are known of it."""
        engine.view.snapshot = None
        if engine.endpoint.has_capacity or engine.endpoint.is_vllm != is_vllm:
            engine.endpoint = engine.target.endpoint(has_capacity=False, is_vllm=is_vllm)
        self._answered(engine, self._clock(), draining=False)

    def poll_missed(self, engine: Engine, error: str) -> None:
        """A poll failed or took too long."""
        engine.health.poll_missed()
        engine.last_error = error
        self.invalidate(engine.target.pool)
        if engine.health.lost:
            for lease in list(engine.leases):
                if lease.exchange is not None:
                    lease.exchange.give_up_if_silent()

    def _answered(self, engine: Engine, now_s: float, *, draining: bool) -> None:
        before = engine.health.state(now_s)
        engine.health.poll_answered(draining=draining)
        engine.polled_s = now_s
        if engine.health.state(now_s) is not before:
            self.invalidate(engine.target.pool)

    # What people and requests ask

    def other_servers(self, pool: str) -> frozenset[str]:
        """Names of the pool's engines that are not vLLM, as far as known."""
        group = self._groups.get(pool)
        engines = group.engines.values() if group is not None else ()
        return frozenset(engine.target.name for engine in engines if not engine.endpoint.is_vllm)

    def size(self, pool: str) -> int:
        """Engines of the pool, whatever their state."""
        group = self._groups.get(pool)
        return len(group.engines) if group is not None else 0

    def usable(self, pool: str) -> int:
        """Engines of the pool that may take work now."""
        group = self._groups.get(pool)
        return len(group.views(self._clock())) if group is not None else 0

    def status(self) -> list[EngineStatus]:
        """One row per engine."""
        now_s = self._clock()
        return [engine_status(engine, now_s) for engine in self._engines.values()]
