"""The simulated gateway knows of replicas what a real one does: late snapshots, and what it has sent itself."""

from engine_builders import H100_LLAMA_8B
from fleet_builders import capacity
from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import make_policy
from proserve_core.replica import Replica
from proserve_core.routing import FleetView, ImmediateRoom, RouteDecision, RoutingRequest
from proserve_lab.simulation.fleet import SimulatedGateway
from proserve_lab.simulation.run import simulate
from proserve_lab.simulation.workload import DEFAULT_MIX, SimulatedRequest, make_workload
from proserve_lab.trace import TraceRow


class FirstReplica:
    """Always the same engine; keeps what it is shown of it."""

    def __init__(self) -> None:
        self.snapshots_s: list[float | None] = []
        self.dispatched: list[dict[str, bool]] = []

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        view = fleet.engines[0]
        self.snapshots_s.append(None if view.snapshot is None else view.snapshot_s)
        self.dispatched.append({name: item.in_snapshot for name, item in view.dispatched.items()})
        return RouteDecision(engine=view.name, reason="the first", candidates=(view.name,))


def requests(count: int, *, gap_s: float) -> list[SimulatedRequest]:
    rows = [TraceRow(arrival_s=number * gap_s, prompt_tokens=500, output_tokens=30) for number in range(count)]
    return make_workload(rows, mix=DEFAULT_MIX, seed=0)


def route(gateway: SimulatedGateway, request: SimulatedRequest, now_s: float) -> None:
    gateway.arrived(request, now_s)
    assert [index for _, index, _ in gateway.bind(now_s)] == [0]


def test_a_snapshot_is_seen_when_it_is_as_old_as_snapshots_get() -> None:
    router = FirstReplica()
    gateway = SimulatedGateway(room=ImmediateRoom(router), replicas=2, staleness_s=0.02)
    gateway.published(0, capacity(), now_s=1.0)
    gateway.published(0, capacity(), now_s=1.005)
    for request, now_s in zip(requests(4, gap_s=0), (1.01, 1.0199, 1.0201, 1.03), strict=True):
        route(gateway, request, now_s)
    assert router.snapshots_s == [None, None, 1.0, 1.005]


def test_a_snapshot_counts_what_was_sent_before_it_was_taken() -> None:
    router = FirstReplica()
    gateway = SimulatedGateway(room=ImmediateRoom(router), replicas=2, staleness_s=0.02)
    before, after, last, final = requests(4, gap_s=0)
    route(gateway, before, 0.9)
    gateway.published(0, capacity(), now_s=1.0)
    route(gateway, after, 1.01)
    route(gateway, last, 1.03)
    gateway.token(0, before, 30, True)
    route(gateway, final, 1.04)
    assert router.dispatched == [
        {},
        {before.id: False},
        {before.id: True, after.id: False},
        {after.id: False, last.id: False},
    ]


def test_a_run_shows_its_router_snapshots_of_that_age() -> None:
    limits = EngineLimits(block_size=16, blocks=2000, max_sequences=64, max_step_tokens=2048)

    def ages_s(staleness_s: float) -> list[float]:
        router = FirstReplica()
        replicas = [
            Replica(policy=make_policy("fcfs"), policy_name="fcfs", limits=limits, latency=H100_LLAMA_8B)
            for _ in range(2)
        ]
        workload = requests(60, gap_s=0.01)
        simulate(workload, replicas=replicas, rooms=[ImmediateRoom(router)], staleness_s=staleness_s)
        return [
            request.arrival_s - taken_s
            for request, taken_s in zip(workload, router.snapshots_s, strict=True)
            if taken_s is not None
        ]

    assert 0.02 <= min(ages_s(0.02)) < 0.06
    assert min(ages_s(0.2)) >= 0.2
    assert ages_s(1e9) == []
