"""Prometheus metrics of one engine process, served at `/metrics` of the capacity server.

A registry of their own: vLLM's metrics live in its API process.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_FAST_S = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)
_STEP_S = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0)


class EngineMetrics:
    """Everything an engine counts about its own scheduling."""

    def __init__(self, policy: str) -> None:
        self.registry = CollectorRegistry()
        info = Gauge("proserve_engine_policy", "Batching policy in charge", ("policy",), registry=self.registry)
        info.labels(policy).set(1)
        self.plan_seconds = self._histogram("plan_seconds", "Time to plan a step and to apply the plan", _FAST_S)
        self.schedule_seconds = self._histogram("schedule_seconds", "Time of vLLM's own schedule()", _FAST_S)
        self.snapshot_seconds = self._histogram("snapshot_seconds", "Time to build a capacity snapshot", _FAST_S)
        self.step_seconds = self._histogram("step_seconds", "Duration of a step with work", _STEP_S)
        self.planned_steps = self._counter("planned_steps", "Steps that followed a plan of the policy")
        self.plain_steps = self._counter("plain_steps", "Steps left to vLLM alone")
        self.refused_plans = self._counter("refused_plans", "Plans of which vLLM could run nothing")
        self.bad_facts = self._counter("bad_facts", "Requests with unusable class facts, run in the default class")
        preemptions = Counter(
            "proserve_engine_preemptions",
            "Requests that lost their blocks, by who decided: the plan, or vLLM when it ran out of blocks",
            ("cause",),
            registry=self.registry,
        )
        self.planned_preemptions = preemptions.labels("plan")
        self.forced_preemptions = preemptions.labels("blocks")
        self.latency_error = Gauge(
            "proserve_engine_latency_error_ratio",
            "Mean absolute percentage error of recent step predictions, as a ratio",
            registry=self.registry,
        )
        self.running = self._gauge("running_requests", "Requests that hold a sequence slot")
        self.waiting = self._gauge("waiting_requests", "Requests that wait for one")
        self.free_blocks = self._gauge("free_blocks", "KV blocks that can be allocated")

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"proserve_engine_{name}", text, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"proserve_engine_{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"proserve_engine_{name}", text, registry=self.registry)
