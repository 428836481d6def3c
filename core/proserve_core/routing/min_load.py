"""`min-load`: the engine whose queued prefills are predicted to be done first.

Source: MinLoad as used by ProServe (arXiv 2512.12928, section 4.4) and xLLM. Load is predicted drain time, not a count,
so engines of different speed compare fairly. An engine without blocks or a sequence slot for the request comes last.
Ties: more free blocks, then name. In overload drain counts work that is late already: `go-routing` falls back to this
rule there, and gain-ordered routers do better (docs/routing.md).
"""

from proserve_core.routing.estimate import FleetEstimator
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class MinLoad:
    """Least predicted drain."""

    def __init__(self) -> None:
        self._estimator = FleetEstimator()

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        now_s = fleet.now_s
        estimates = self._estimator.estimates(fleet)
        best = min(estimates, key=lambda estimate: estimate.load_key(request, now_s))
        return RouteDecision(
            engine=best.name,
            reason="least predicted drain" if best.fits(request) else "least predicted drain: no engine has room",
            expected_ttft_s=best.begin_s(now_s) + best.cost_s(request) - request.arrival_s,
            candidates=tuple(estimate.name for estimate in estimates),
        )
