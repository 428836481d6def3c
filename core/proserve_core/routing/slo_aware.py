"""`slo-aware`: least queued prefill time among engines that would still decode within the request's TPOT.

Source: the SLO_AWARE policy of xLLM (xllm-service, instance_mgr.cpp, select_instance_pair_on_slo), the precursor of
GoRouting. There a prefill and a decode instance are chosen apart: the first by least estimated prefill time, the second
as the first one whose predicted TPOT, the request included, meets the objective, else the least TPOT. Here one engine
does both, so the TPOT test filters and the prefill time chooses. Left out: moving instances between the two roles.
"""

from proserve_core.routing.estimate import EngineEstimate, FleetEstimator
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class SloAware:
    """TPOT objective first, then least prefill time."""

    def __init__(self) -> None:
        self._estimator = FleetEstimator()

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        now_s = fleet.now_s
        judged = [(_tpot_s(engine, request), engine) for engine in self._estimator.estimates(fleet)]
        in_time = [engine for tpot_s, engine in judged if tpot_s <= request.terms.objectives.tpot_s]
        if in_time:
            best = min(in_time, key=lambda engine: engine.load_key(request, now_s))
            reason, candidates = "least prefill time within the token objective", in_time
        else:
            _, best = min(judged, key=lambda item: (item[0], item[1].name))
            reason, candidates = "least time per token: the objective is met nowhere", [engine for _, engine in judged]
        return RouteDecision(
            engine=best.name,
            reason=reason,
            expected_ttft_s=best.begin_s(now_s) + best.cost_s(request) - request.arrival_s,
            candidates=tuple([engine.name for engine in candidates]),
        )


def _tpot_s(engine: EngineEstimate, request: RoutingRequest) -> float:
    """Step time of the engine's decodes and the request's."""
    decodes = engine.decodes
    count = decodes.count + 1
    return engine.profile.latency.sums_s(count, 0.0, decodes.context + request.prompt_tokens, count)
