"""`go-routing`: keeps lightly loaded engines free for the long and important requests still to come.

Source: GoRouting (ProServe, arXiv 2512.12928, section 4.4, algorithm 2), for engines that prefill and decode. Every
engine is asked how much gain the request would add there (`gain_estimate`); those within `beta` of the best are
candidates; among them

- all lightly loaded: the least loaded (nothing to reserve yet);
- all overloaded: the least loaded (MinLoad);
- otherwise: the most loaded one that is not overloaded. Its first token comes later but on time, and a light engine
  stays free for a request that could be served in time nowhere else.

Load is predicted drain as a share of the request's own TTFT objective; without blocks or a sequence slot for it an
engine counts as overloaded. The paper publishes neither beta nor the thresholds; it also exchanges its set labels, the
rule above is their only consistent reading. Faults of the published rule (it values first tokens, counts dead work as
load) stay: they are what later policies repair (docs/routing.md).
"""

from proserve_core.routing.estimate import EngineEstimate, FleetEstimator, LoadKey
from proserve_core.routing.gain_estimate import GainEstimate, QueueForecast
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest


class GoRouting:
    """Gain first, then packing between two load thresholds."""

    def __init__(self, *, beta: float = 0.95, theta_low: float = 0.2, theta_high: float = 0.8) -> None:
        """Parameters without unit.

        Args:
            beta: a candidate adds at least this share of the best gain difference, in (0, 1].
            theta_low: below this load, in TTFT objectives, an engine is lightly loaded.
            theta_high: above this load an engine is overloaded.

        Raises:
            ValueError: a parameter is out of range.
        """
        if not 0 < beta <= 1:
            raise ValueError(f"go-routing beta {beta} is out of range: use a share above 0 and up to 1")
        if not 0 <= theta_low <= theta_high:
            raise ValueError(
                f"go-routing thresholds low {theta_low}, high {theta_high} are out of order: use 0 <= low <= high"
            )
        self.beta = beta
        self.theta_low = theta_low
        self.theta_high = theta_high
        self._estimator = FleetEstimator()
        self._forecasts: dict[str, QueueForecast] = {}

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        now_s = fleet.now_s
        judged = [
            (engine, self._forecast(engine).estimate(request, now_s)) for engine in self._estimator.estimates(fleet)
        ]
        if len(self._forecasts) > 2 * len(judged):
            self._forecasts = {engine.name: self._forecasts[engine.name] for engine, _ in judged}
        best = max(gain.delta for _, gain in judged)
        least = self.beta * best if best > 0 else float("-inf")
        candidates = [(engine, gain) for engine, gain in judged if gain.delta >= least]
        engine, gain, reason = self._pick(candidates, request, now_s)
        return RouteDecision(
            engine=engine.name,
            reason=reason,
            expected_ttft_s=gain.first_token_s - request.arrival_s,
            expected_gain=gain.delta,
            candidates=tuple([candidate.name for candidate, _ in candidates]),
            candidate_ttft_s=tuple([judged.first_token_s - request.arrival_s for _, judged in candidates]),
            candidate_gain=tuple([judged.delta for _, judged in candidates]),
        )

    def _forecast(self, engine: EngineEstimate) -> QueueForecast:
        forecast = self._forecasts.get(engine.name)
        if forecast is None or forecast.engine is not engine:
            forecast = self._forecasts[engine.name] = QueueForecast(engine)
        return forecast

    def _pick(
        self, candidates: list[tuple[EngineEstimate, GainEstimate]], request: RoutingRequest, now_s: float
    ) -> tuple[EngineEstimate, GainEstimate, str]:
        ttft_s = max(request.terms.objectives.ttft_s, 1e-9)
        by_load = sorted([(engine.load_key(request, now_s), engine, gain) for engine, gain in candidates], key=_load)
        loads = [float("inf") if full else drain_s / ttft_s for (full, drain_s, _, _), _, _ in by_load]
        usable = [index for index, load in enumerate(loads) if load <= self.theta_high]
        if loads[-1] < self.theta_low:
            chosen, reason = 0, "least loaded: all candidates are lightly loaded"
        elif not usable:
            chosen, reason = 0, "least loaded: all candidates are overloaded"
        else:
            chosen = loads.index(loads[usable[-1]])
            reason = "most loaded candidate that is not overloaded"
        _, engine, gain = by_load[chosen]
        return engine, gain, reason


def _load(candidate: tuple[LoadKey, EngineEstimate, GainEstimate]) -> LoadKey:
    return candidate[0]
