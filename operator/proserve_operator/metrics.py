"""What the operator says of itself to Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "proserve_operator_"


class OperatorMetrics:
    """All series, in a registry of their own."""

    def __init__(self, *, queue_length: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.leader = self._gauge("leader", "1 in the replica that acts.")
        self.reconciles = Counter(
            PREFIX + "reconciles_total",
            "Looks at a resource: ok; retry: the API server could not do what was asked; error: a fault, see the log.",
            ["kind", "result"],
            registry=self.registry,
        )
        self.reconcile_s = Histogram(
            PREFIX + "reconcile_seconds",
            "Time of one look at a resource.",
            ["kind"],
            registry=self.registry,
            buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0),
        )
        self.last_success_s = Gauge(
            PREFIX + "last_success_timestamp_seconds",
            "When a look at a resource of the kind last went well.",
            ["kind"],
            registry=self.registry,
        )
        self.events = Counter(
            PREFIX + "watch_events_total", "Events of watches, first lists included.", ["kind"], registry=self.registry
        )
        self.missed = Counter(
            PREFIX + "watch_missed_total",
            "Changes that a comparison with the API server found and no watch had shown.",
            ["kind"],
            registry=self.registry,
        )
        self.gateways = self._gauge("gateways", "Gateways that report gain.")
        queue = self._gauge("queue_length", "Resources that wait to be looked at.")
        queue.set_function(queue_length)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(PREFIX + name, text, registry=self.registry)

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)
