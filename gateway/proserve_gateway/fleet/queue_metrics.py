"""What becomes of requests that wait for an engine, as Prometheus series."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from proserve_core.admission.overload import Refusal
from proserve_gateway.metrics import PREFIX, GatewayMetrics, MetricInfo

if TYPE_CHECKING:
    from proserve_gateway.fleet.fleet import Fleet

_WAITING = MetricInfo(
    name=f"{PREFIX}requests_waiting",
    kind="gauge",
    labels=("pool", "class"),
    help="Requests that wait for an engine, in pools with a waiting room and in those without any engine.",
)


class QueueMetrics(Collector):
    """Of all pools: events are counted as they fall, who waits is read when it is scraped."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._fleet: Fleet | None = None

    def read(self, fleet: "Fleet") -> None:
        """Serve the state of this fleet."""
        self._fleet = fleet
        self._metrics.declare(_WAITING)
        self._metrics.registry.register(self)

    def waited(self, pool: str, priority_class: str, wait_s: float) -> None:
        """A request got an engine after this time."""
        self._metrics.wait.labels(pool, priority_class).observe(wait_s)

    def refused(self, pool: str, priority_class: str, cause: Refusal) -> None:
        """A request was refused, or goes on in another class."""
        self._metrics.wait_refusals.labels(pool, priority_class, cause).inc()

    def degraded(self, pool: str, priority_class: str, to: str) -> None:
        """It goes on in this one."""
        self._metrics.degraded.labels(pool, priority_class, to).inc()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        waiting = GaugeMetricFamily(_WAITING.name, _WAITING.help, labels=_WAITING.labels)
        for pool, classes in self._fleet.waiting_by_class() if self._fleet is not None else ():
            for priority_class, count in classes.items():
                waiting.add_metric((pool, priority_class), count)
        yield waiting
