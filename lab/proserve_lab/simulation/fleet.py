"""What a simulated gateway knows of the replicas: snapshots that are late, and its own dispatches since."""

from collections import deque

from proserve_core.capacity import CapacitySnapshot
from proserve_core.routing import Dispatched, EngineView, FleetView, RoutingPolicy, RoutingRequest
from proserve_core.routing.output_lengths import OutputLengths
from proserve_lab.simulation.workload import SimulatedRequest

MODEL = "simulated"


class SimulatedGateway:
    """Routes requests on snapshots that become visible `staleness_s` after they were taken."""

    def __init__(self, *, router: RoutingPolicy, replicas: int, staleness_s: float) -> None:
        self._router = router
        self._staleness_s = staleness_s
        self._views = [
            EngineView(name=replica_name(index), snapshot=None, snapshot_s=0.0, dispatched={})
            for index in range(replicas)
        ]
        self._by_name = {view.name: index for index, view in enumerate(self._views)}
        self._arriving: list[deque[tuple[float, CapacitySnapshot]]] = [deque() for _ in range(replicas)]
        self._lengths = OutputLengths()

    def published(self, replica: int, snapshot: CapacitySnapshot, now_s: float) -> None:
        """A replica took a snapshot."""
        self._arriving[replica].append((now_s, snapshot))

    def route(self, request: SimulatedRequest, now_s: float) -> int:
        """Index of the replica that gets the request."""
        self._receive(now_s)
        asked = RoutingRequest(
            id=request.id,
            arrival_s=request.arrival_s,
            terms=request.terms,
            prompt_tokens=request.prompt_tokens,
            expected_output_tokens=self._lengths.expected(model=MODEL, priority_class=request.terms.priority_class),
        )
        decision = self._router.choose(asked, FleetView(now_s=now_s, engines=self._views))
        index = self._by_name[decision.engine]
        self._views[index].dispatched[request.id] = Dispatched(request=asked, sent_s=now_s)
        return index

    def token(self, replica: int, request: SimulatedRequest, token: int, finished: bool) -> None:
        """A token passed through the gateway."""
        dispatched = self._views[replica].dispatched
        if finished:
            del dispatched[request.id]
            self._lengths.finished(model=MODEL, priority_class=request.terms.priority_class, tokens=token)
        else:
            dispatched[request.id].emitted_tokens = token

    def _receive(self, now_s: float) -> None:
        for view, arriving in zip(self._views, self._arriving, strict=True):
            while arriving and arriving[0][0] + self._staleness_s <= now_s:
                view.snapshot_s, view.snapshot = arriving.popleft()
                for item in view.dispatched.values():
                    item.in_snapshot = item.sent_s <= view.snapshot_s


def replica_name(index: int) -> str:
    return f"replica-{index}"
