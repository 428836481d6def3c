"""The gateway's picture of its engines, and the choice of one for each request (ROUTING, sections 1 and 2).

Polls write snapshots in, leases write own dispatches in; routing policies read both through `FleetView`. The engines
that may take work are kept as a ready tuple per pool, rebuilt only when something changed, so that a choice costs the
policy and little else. No I/O and no clock of its own: the poller feeds it, `clock` is injected.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from proserve_core.admission.headroom import HeadroomBook, HeadroomUse
from proserve_core.capacity import CapacitySnapshot
from proserve_core.engine_metrics import EngineReading
from proserve_core.pools import DEFAULT_ROUTING_POLICY
from proserve_core.routing import (
    Binding,
    Dispatched,
    EngineView,
    FleetView,
    RouteDecision,
    RoutingRequest,
    WaitingRoom,
)
from proserve_core.routing.coarse_capacity import coarse_snapshot
from proserve_core.routing.engine_profile import nominal_profile
from proserve_core.routing.step_watch import StepWatch
from proserve_gateway.errors import ApiError, no_engine_available
from proserve_gateway.fleet.engine import Engine, EngineGroup
from proserve_gateway.fleet.first_engine import FirstEngines
from proserve_gateway.fleet.lease import Lease, Outcome
from proserve_gateway.fleet.match import mark_counted
from proserve_gateway.fleet.pool_queue import PoolQueue
from proserve_gateway.fleet.progress import STUCK_S
from proserve_gateway.fleet.queue_metrics import QueueMetrics
from proserve_gateway.fleet.room_shares import WaitingLimits
from proserve_gateway.fleet.status import EngineStatus, engine_status
from proserve_gateway.fleet.target import EngineTarget, TargetError
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.upstream.exchange import FailureKind

RETRY_AFTER_S = 1.0
"""What a client is told when no engine is usable: about the time of a poll or of a circuit's first opening."""
ONLY_ENGINE = "only engine that may take work"
"""Reason of a choice that no policy was asked for."""


class Fleet:
    """All engines of all pools."""

    def __init__(
        self,
        *,
        make_room: Callable[[str], WaitingRoom],
        clock: Callable[[], float],
        on_decision: Callable[[str, str], None] | None = None,
        queue_metrics: QueueMetrics | None = None,
        waiting_limits: WaitingLimits | None = None,
        stuck_s: float = STUCK_S,
    ) -> None:
        """`make_room(policy)` makes the waiting room of a routing policy, `on_decision(pool, reason)` is told each
        choice; `stuck_s`: see `UpstreamLimits`."""
        self._make_room = make_room
        self._queue_metrics = queue_metrics or QueueMetrics(GatewayMetrics())
        self._waiting_limits = waiting_limits or WaitingLimits()
        self._clock = clock
        self._stuck_s = stuck_s
        self._on_decision = on_decision
        self._groups: dict[str, EngineGroup] = {}
        self._engines: dict[str, Engine] = {}
        self._listeners: list[Callable[[], None]] = []
        self.first_engines = FirstEngines(
            usable=self.usable, clock=clock, metrics=self._queue_metrics, limits=self._waiting_limits
        )

    # Membership

    def set_targets(self, targets: Sequence[EngineTarget], policies: Mapping[str, str] | None = None) -> None:
        """Replace the list of engines. `policies` are the routing policies of pools; one that is not among them has the
        default one, and is gone when it has no engines.

        Engines that are the same server as before keep their state, and so does the policy of a pool unless it gets
        another one; requests at removed engines run on. Requests that wait for a pool go on waiting, under the policy
        that it has then, or are turned away if it is gone.

        Raises:
            TargetError: two targets have one name or an address cannot be used; nothing changes then.
            ValueError: a policy does not exist; nothing changes then.
        """
        engines: dict[str, Engine] = {}
        members: dict[str, dict[str, Engine]] = {pool: {} for pool in policies or {}}
        for target in targets:
            if target.name in engines:
                raise TargetError(f"engine name {target.name!r} is used twice: give each engine its own name")
            known = self._engines.get(target.name)
            target.capacity_endpoint()
            same = known is not None and target.same_server(known.target)
            engine = known if known is not None and same else Engine(target)
            engines[target.name] = members.setdefault(target.pool, {})[target.name] = engine
        groups: dict[str, EngineGroup] = {}
        rooms: dict[str, WaitingRoom] = {}
        for pool in members:
            policy = (policies or {}).get(pool, DEFAULT_ROUTING_POLICY)
            group = self._groups.get(pool)
            room = group.queue.room if group is not None and group.policy == policy else self._make_room(policy)
            rooms[pool] = room
            groups[pool] = group or EngineGroup(policy, self._new_queue(pool, room))
        for target in targets:
            engines[target.name].retarget(target)
        for pool, group in groups.items():
            group.engines = members[pool]
            group.policy = (policies or {}).get(pool, DEFAULT_ROUTING_POLICY)
            group.dirty = True
        gone = {pool: group for pool, group in self._groups.items() if pool not in groups}
        self._engines, self._groups = engines, groups
        for pool, group in gone.items():
            group.queue.turn_away(partial(_pool_gone, pool))
        for pool, group in groups.items():
            group.queue.use(rooms[pool])
            self.first_engines.changed(pool)
        for listener in self._listeners:
            listener()

    def on_targets(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the list of engines changed."""
        self._listeners.append(listener)

    @property
    def engines(self) -> Collection[Engine]:
        return self._engines.values()

    def taking_work(self) -> list[Engine]:
        """Engines that may take work now."""
        now_s = self._clock()
        return [engine for engine in self._engines.values() if engine.health.takes_work(now_s)]

    # Choice

    def queue(self, pool: str) -> PoolQueue | None:
        """Where requests of the pool wait for an engine; None: each is given to one at once, by `choose`."""
        group = self._groups.get(pool)
        return None if group is None or group.queue.room.tick_s is None else group.queue

    def reads_prefixes(self, pool: str) -> bool:
        """Whether a choice among the pool's engines depends on how a prompt begins."""
        group = self._groups.get(pool)
        return group is not None and len(group.engines) > 1 and group.queue.room.reads_prefixes

    def choose(self, pool: str, request: RoutingRequest, exclude: frozenset[str] = frozenset()) -> Lease:
        """Give the request to an engine of the pool at once.

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
            binding = Binding(request=request, decision=decision, cached_tokens=0)
        else:
            binding = group.queue.room.place(request, FleetView(now_s=now_s, engines=views))
        return self._grant(group, binding, now_s)

    def _grant(self, group: EngineGroup, binding: Binding, now_s: float) -> Lease:
        decision, request = binding.decision, binding.request
        engine = group.engines[decision.engine]
        if not engine.health.circuit_closed:
            engine.health.request_sent()
            group.dirty = True
        dispatched = Dispatched(request=request, sent_s=now_s, cached_tokens=binding.cached_tokens)
        if not request.streams and decision.expected_ttft_s is not None:
            dispatched.begun_s = request.arrival_s + decision.expected_ttft_s
        engine.view.dispatched[request.id] = dispatched
        if self._on_decision is not None:
            self._on_decision(engine.target.pool, decision.reason)
        lease = Lease(fleet=self, engine=engine, dispatched=dispatched, decision=decision)
        engine.leases.add(lease)
        return lease

    def _new_queue(self, pool: str, room: WaitingRoom) -> PoolQueue:
        def views() -> Sequence[EngineView]:
            return self._groups[pool].views(self._clock())

        def grant(binding: Binding) -> Lease:
            return self._grant(self._groups[pool], binding, self._clock())

        return PoolQueue(
            room,
            views=views,
            grant=grant,
            stale=lambda: self._groups[pool].dirty,
            no_engine=lambda: self._no_engine(pool, self._clock()),
            clock=self._clock,
            pool=pool,
            limits=self._waiting_limits,
            metrics=self._queue_metrics,
        )

    def release(self, lease: Lease, engine: Engine, dispatched: Dispatched, outcome: Outcome, error: str) -> None:
        """End of a lease."""
        engine.leases.discard(lease)
        engine.view.dispatched.pop(dispatched.request.id, None)
        engine.view.revision += 1
        health = engine.health
        was_closed = health.circuit_closed
        # An engine on probation gets no second opinion: while its probes are in doubt it would get one after another.
        if outcome is Outcome.FAILED or (outcome is Outcome.DOUBTFUL and not was_closed):
            health.request_failed(self._clock())
            engine.last_error = error
        elif outcome is Outcome.ANSWERED:
            health.request_answered()
        else:
            health.request_abandoned()
        if not (was_closed and health.circuit_closed):
            self.invalidate(engine.target.pool)
        else:
            self._room_changed(engine.target.pool)

    def blame(self, engine: Engine, error: str) -> None:
        """A request that ended there doubtfully was served by another engine."""
        engine.health.request_failed(self._clock())
        engine.last_error = error
        if not engine.health.circuit_closed:
            self.invalidate(engine.target.pool)

    def invalidate(self, pool: str) -> None:
        """Something that decides who may take work changed."""
        group = self._groups.get(pool)
        if group is not None:
            group.dirty = True
            group.queue.changed()
            self.first_engines.changed(pool)

    def _room_changed(self, pool: str) -> None:
        group = self._groups.get(pool)
        if group is not None:
            group.queue.changed()

    def _no_engine(self, pool: str, now_s: float) -> ApiError:
        states = {name: str(e.health.state(now_s)) for name, e in self._engines.items() if e.target.pool == pool}
        known = ", ".join(f"{name} {state}" for name, state in states.items()) or "it has no engines"
        return no_engine_available(
            f"no engine of pool {pool} can take requests now ({known}); try again", retry_after_s=RETRY_AFTER_S
        )

    def turn_away(self, error: Callable[[], ApiError]) -> None:
        """Nobody who waits for an engine will get one."""
        self.first_engines.turn_away(error)
        for group in self._groups.values():
            group.queue.turn_away(error)

    def waiting_by_class(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Each pool, and how many wait for it, for every class that ever waited in its room."""
        counts = {pool: Counter(group.queue.by_class) for pool, group in self._groups.items()}
        for pool, waiting in self.first_engines.by_class():
            counts.setdefault(pool, Counter()).update(waiting)
        yield from counts.items()

    def open_requests(self) -> dict[str, int]:
        """Each pool for which requests wait or where they run, and how many."""
        counts: Counter[str] = Counter()
        for pool, waiting in self.waiting_by_class():
            counts[pool] += sum(waiting.values())
        for engine in self._engines.values():
            counts[engine.target.pool] += len(engine.leases)
        return dict(+counts)

    @property
    def waiting(self) -> int:
        """Requests that wait for an engine."""
        return len(self.first_engines) + sum(len(group.queue) for group in self._groups.values())

    # What polls found

    def snapshot_arrived(self, engine: Engine, snapshot: CapacitySnapshot) -> None:
        """A poll brought the engine's state."""
        now_s = self._clock()
        view = engine.view
        if view.snapshot is not None and view.snapshot.engine_id != snapshot.engine_id:
            for dispatched in view.dispatched.values():
                dispatched.in_snapshot = False
        view.snapshot = snapshot
        engine.watch, view.speed_known = None, True
        view.snapshot_s = now_s - snapshot.age_s
        mark_counted(view.dispatched, snapshot, view.snapshot_s)
        if not engine.endpoint.has_capacity:
            engine.endpoint = engine.target.endpoint(has_capacity=True)
        self._answered(engine, now_s, draining=snapshot.draining, sign=(snapshot.engine_id, snapshot.seq))
        self._room_changed(engine.target.pool)

    def probe_answered(self, engine: Engine, *, is_vllm: bool = False) -> None:
        """The engine answers but publishes nothing of its load: only own dispatches are known of it."""
        engine.view.snapshot = None
        self._without_capacity(engine, is_vllm=is_vllm)
        self._answered(engine, self._clock(), draining=False)

    def metrics_arrived(self, engine: Engine, reading: EngineReading, *, is_vllm: bool = False) -> None:
        """The engine publishes no capacity, but metrics."""
        now_s, view = self._clock(), engine.view
        self._without_capacity(engine, is_vllm=is_vllm)
        peers = [
            e.view for e in self._engines.values() if e.target.pool == engine.target.pool and e.endpoint.has_capacity
        ]
        profile = nominal_profile(peers)
        if view.latency is not None:
            profile = msgspec.structs.replace(profile, latency=view.latency)
        view.snapshot = coarse_snapshot(
            reading,
            view.dispatched.values(),
            profile=profile,
            seq=1 if view.snapshot is None else view.snapshot.seq + 1,
            now_s=now_s,
        )
        view.snapshot_s = now_s
        for entry in view.dispatched.values():
            entry.in_snapshot = True
        self._answered(engine, now_s, draining=False, sign=reading)
        self._room_changed(engine.target.pool)

    def _without_capacity(self, engine: Engine, *, is_vllm: bool) -> None:
        if self.queue(engine.target.pool) is None:
            engine.watch, engine.view.speed_known = None, True
        elif engine.watch is None:
            engine.watch = StepWatch(nominal_profile(()).latency)
            engine.view.speed_known = False
        if engine.endpoint.has_capacity or engine.endpoint.is_vllm != is_vllm:
            engine.endpoint = engine.target.endpoint(has_capacity=False, is_vllm=is_vllm)

    def poll_missed(self, engine: Engine, error: str) -> None:
        """A poll failed or took too long."""
        engine.health.poll_missed()
        engine.last_error = error
        self.invalidate(engine.target.pool)
        if engine.health.lost:
            self._give_up(engine, FailureKind.LOST, "does not answer polls")

    def _answered(self, engine: Engine, now_s: float, *, draining: bool, sign: object = None) -> None:
        before = engine.health.state(now_s)
        engine.poll_answered(now_s, draining=draining, sign=sign, stuck_s=self._stuck_s)
        if engine.health.state(now_s) is not before:
            self.invalidate(engine.target.pool)
        if engine.health.stuck and self.usable(engine.target.pool):
            # With nowhere to go on, requests had better wait for it.
            self._give_up(engine, FailureKind.STUCK, engine.last_error)

    def _give_up(self, engine: Engine, kind: FailureKind, why: str) -> None:
        for lease in list(engine.leases):
            if lease.exchange is not None:
                lease.exchange.give_up_if_silent(kind, why)

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

    def headrooms(self) -> Iterator[tuple[str, HeadroomBook]]:
        """Of each pool whose requests wait for engines, by name: who holds and uses shares of engine time."""
        for pool, group in self._groups.items():
            if group.queue.room.headroom is not None:
                yield pool, group.queue.room.headroom

    def headroom_uses(self) -> dict[str, list[HeadroomUse]]:
        """The same as it stands, of pools in which any class has headroom."""
        now_s = self._clock()
        return {pool: headroom.uses(now_s) for pool, headroom in self.headrooms() if headroom.active}

    def usable(self, pool: str) -> int:
        """Engines of the pool that may take work now."""
        group = self._groups.get(pool)
        return len(group.views(self._clock())) if group is not None else 0

    def status(self) -> list[EngineStatus]:
        """One row per engine."""
        now_s = self._clock()
        return [engine_status(engine, now_s) for engine in self._engines.values()]


def _pool_gone(pool: str) -> ApiError:
    return no_engine_available(f"pool {pool} is not configured any more; try again", retry_after_s=RETRY_AFTER_S)
