"""What a simulated gateway knows of the replicas: snapshots that are late, and its own dispatches since."""

import math
from collections import deque
from collections.abc import Iterator

from proserve_core.capacity import CapacitySnapshot
from proserve_core.objectives import ServiceTerms
from proserve_core.routing import Dispatched, EngineView, FleetView, RoutingRequest, WaitingRoom
from proserve_core.routing.length_forecast import PROGRESS_S, LengthForecast
from proserve_core.routing.state import boosted
from proserve_lab.simulation.workload import SimulatedRequest


class SimulatedGateway:
    """Holds and routes requests on snapshots that become visible `staleness_s` after they were taken."""

    def __init__(self, *, room: WaitingRoom, replicas: int, staleness_s: float) -> None:
        self._room = room
        self._staleness_s = staleness_s
        self._views = [
            EngineView(name=replica_name(index), snapshot=None, snapshot_s=0.0, dispatched={})
            for index in range(replicas)
        ]
        self._by_name = {view.name: index for index, view in enumerate(self._views)}
        self._arriving: deque[tuple[float, int, CapacitySnapshot]] = deque()
        """When each was taken, by which replica; in order of time."""
        self._waiting: dict[str, SimulatedRequest] = {}
        self._bound_s = -math.inf
        self._lengths = LengthForecast()
        self._counted_s = -math.inf

    def published(self, replica: int, snapshot: CapacitySnapshot, now_s: float) -> None:
        """A replica took a snapshot."""
        self._arriving.append((now_s, replica, snapshot))

    def arrived(self, request: SimulatedRequest, now_s: float, prefix_blocks: tuple[int, ...] = ()) -> None:
        """A request is here."""
        self._waiting[request.id] = request
        self._room.arrived(
            RoutingRequest(
                id=request.id,
                arrival_s=request.arrival_s,
                terms=request.terms,
                tenant=request.tenant,
                prompt_tokens=request.prompt_tokens,
                expected_output_tokens=self._lengths.arrived(
                    request.id,
                    terms=request.terms,
                    prompt_tokens=request.prompt_tokens,
                    clues=request.clues,
                    now_s=now_s,
                ),
                prefix_blocks=prefix_blocks,
            )
        )

    def bind(self, now_s: float) -> Iterator[tuple[SimulatedRequest, int, ServiceTerms]]:
        """Requests that go to a replica now, each with its index and the terms that the replica is told."""
        self._receive(now_s)
        if now_s - self._counted_s >= PROGRESS_S:
            self._counted_s = now_s
            emitted = {name: item.emitted_tokens for view in self._views for name, item in view.dispatched.items()}
            self._lengths.progressed(emitted, now_s)
        self._bound_s = now_s
        for binding in self._room.bind(FleetView(now_s=now_s, engines=self._views)):
            request = self._waiting.pop(binding.request.id)
            index = self._by_name[binding.decision.engine]
            self._views[index].dispatched[request.id] = Dispatched(
                request=binding.request, sent_s=now_s, cached_tokens=binding.cached_tokens
            )
            yield request, index, boosted(request.terms, binding.request.boost)

    @property
    def wake_s(self) -> float:
        """When to call `bind` without an arrival: at the next snapshot or tick while requests wait."""
        if not self._waiting:
            return math.inf
        tick_s = self._room.tick_s
        next_s = math.inf if tick_s is None else self._bound_s + tick_s
        return min(next_s, self._arriving[0][0] + self._staleness_s) if self._arriving else next_s

    def token(self, replica: int, request: SimulatedRequest, token: int, finished: bool) -> None:
        """A token passed through the gateway."""
        dispatched = self._views[replica].dispatched
        if finished:
            del dispatched[request.id]
            self._lengths.ended(request.id, token, complete=True)
        else:
            dispatched[request.id].emitted_tokens = token

    def _receive(self, now_s: float) -> None:
        arriving = self._arriving
        while arriving and arriving[0][0] + self._staleness_s <= now_s:
            taken_s, replica, snapshot = arriving.popleft()
            view = self._views[replica]
            view.snapshot_s, view.snapshot = taken_s, snapshot
            for item in view.dispatched.values():
                item.in_snapshot = item.sent_s <= taken_s


def replica_name(index: int) -> str:
    return f"replica-{index}"
