"""What becomes of requests that wait for an engine, counted as it happens. Who waits is in `fleet.metrics`."""

from proserve_core.admission.overload import Refusal
from proserve_gateway.metrics import GatewayMetrics


class QueueMetrics:
    """Of all pools."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    def waited(self, pool: str, priority_class: str, wait_s: float) -> None:
        """A request got an engine after this time."""
        self._metrics.wait.labels(pool, priority_class).observe(wait_s)

    def refused(self, pool: str, priority_class: str, cause: Refusal) -> None:
        """A request was refused, or goes on in another class."""
        self._metrics.wait_refusals.labels(pool, priority_class, cause).inc()

    def degraded(self, pool: str, priority_class: str, to: str) -> None:
        """It goes on in this one."""
        self._metrics.degraded.labels(pool, priority_class, to).inc()
