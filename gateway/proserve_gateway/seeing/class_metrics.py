"""What the configuration promises each class, as series.

Queries compare with it, and find the class that is worth most.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.metrics import PREFIX, GatewayMetrics, MetricInfo


def _info(name: str, text: str) -> MetricInfo:
    return MetricInfo(name=PREFIX + name, kind="gauge", labels=("class",), help=text)


_WEIGHT = _info("class_weight", "Weight of the class, as configured.")
_TTFT = _info("class_time_to_first_token_objective_seconds", "Time to first token that the class is promised.")
_TPOT = _info("class_time_per_output_token_objective_seconds", "Time per output token that the class is promised.")


class ClassCollector(Collector):
    """Reads the configuration at scrape time."""

    def __init__(self, catalog: Callable[[], Catalog], metrics: GatewayMetrics) -> None:
        """`catalog()` is the configuration in force."""
        self._catalog = catalog
        for info in (_WEIGHT, _TTFT, _TPOT):
            metrics.declare(info)
        metrics.registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        weight, ttft, tpot = (
            GaugeMetricFamily(each.name, each.help, labels=["class"]) for each in (_WEIGHT, _TTFT, _TPOT)
        )
        for name, each in self._catalog().priority_classes.items():
            weight.add_metric([name], each.weight)
            ttft.add_metric([name], each.objectives.ttft_s)
            tpot.add_metric([name], each.objectives.tpot_s)
        yield from (weight, ttft, tpot)
