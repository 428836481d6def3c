"""What the configuration promises each class, as series.

Queries compare with it, and find the class that is worth most.
"""

from collections.abc import Callable, Iterator

from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.exposition import MetricInfo, Table
from proserve_gateway.metrics import PREFIX, GatewayMetrics


def _info(name: str, text: str) -> MetricInfo:
    return MetricInfo(name=PREFIX + name, kind="gauge", labels=("class",), help=text)


_WEIGHT = _info("class_weight", "Weight of the class, as configured.")
_TTFT = _info("class_time_to_first_token_objective_seconds", "Time to first token that the class is promised.")
_TPOT = _info("class_time_per_output_token_objective_seconds", "Time per output token that the class is promised.")


class ClassCollector:
    """Reads the configuration at scrape time."""

    def __init__(self, catalog: Callable[[], Catalog], metrics: GatewayMetrics) -> None:
        """`catalog()` is the configuration in force."""
        self._catalog = catalog
        metrics.read((_WEIGHT, _TTFT, _TPOT), self._tables)

    def _tables(self) -> Iterator[Table]:
        classes = list(self._catalog().priority_classes.items())
        yield Table(_WEIGHT, (((name,), each.weight) for name, each in classes))
        yield Table(_TTFT, (((name,), each.objectives.ttft_s) for name, each in classes))
        yield Table(_TPOT, (((name,), each.objectives.tpot_s) for name, each in classes))
