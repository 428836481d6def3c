"""`prefix-affinity`: the engine that holds most of the prompt's KV already, unless too much waits there.

Source: cache-aware routing of the SGLang router and of llm-d's prefix scorer. Affinity alone sends everybody with one
system prompt to one engine; in a study of it mean gain fell from 0.9 to 0.6 on conversations with long shared prefixes
(docs/routing.md). Hence the guard: an engine whose queue takes longer than the shortest one by more than `guard` of the
request's TTFT objective does not count, whatever it holds. Without a hit, and among equal hits, the least predicted
drain wins, as in `min-load`.
"""

from proserve_core.routing.estimate import FleetEstimator
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class PrefixAffinity:
    """Longest predicted prefix hit among engines that are not much busier than the idlest."""

    def __init__(self, *, guard: float = 0.3) -> None:
        """Args:
        guard: how much longer an engine's queue may be than the shortest, as a share of the TTFT objective; an engine
            works two or three prefill steps in 0.3 s.

        Raises:
            ValueError: the guard is negative.
        """
        if guard < 0:
            raise ValueError(f"prefix-affinity guard {guard} is negative: use a share of the TTFT objective, 0 or more")
        self.guard = guard
        self._estimator = FleetEstimator()

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        now_s = fleet.now_s
        ranked = sorted(
            [(engine.load_key(request, now_s), engine) for engine in self._estimator.estimates(fleet)],
            key=lambda item: item[0],
        )
        (full, least_s, _, _), best = ranked[0]
        most_s = least_s + self.guard * request.terms.objectives.ttft_s
        candidates = [engine for (no_room, drain_s, _, _), engine in ranked if no_room == full and drain_s <= most_s]
        # The first of several with equal hits is the least loaded.
        best = max(candidates, key=lambda engine: request.cached_tokens.get(engine.name, 0))
        hit = request.cached_tokens.get(best.name, 0)
        longest = max(request.cached_tokens.values(), default=0)
        reason = "longest prefix hit" if hit else "least predicted drain: prefix held by none"
        if hit < longest:
            reason = "prefix held by an engine that is too busy or gone"
        return RouteDecision(
            engine=best.name,
            reason=reason,
            expected_ttft_s=best.begin_s(now_s) + best.cost_s(request) - request.arrival_s,
            candidates=tuple([engine.name for engine in candidates]),
        )
