"""Text for Prometheus, a line at a time.

A gateway of a thousand tenants has tens of thousands of series. `prometheus_client` makes an object of each before it
writes the first, and in a thread it takes the interpreter from the event loop for 5 ms at a time (65 to 182 ms of delay
for chunks that came meanwhile). Lines that are made one after the other cost a tenth, and between any two of them the
streams can have their turn.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

COUNTER, GAUGE = "counter", "gauge"
Row = tuple[Sequence[str], float]
"""Label values and the value."""


class MetricInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the metrics table."""

    name: str
    """As exposed, `_total` included."""
    kind: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


class Table(msgspec.Struct, frozen=True):
    """All series of one metric, made when they are read. What they are made of changes meanwhile, so no dict may be
    walked through."""

    info: MetricInfo
    rows: Iterable[Row]

    def lines(self) -> Iterator[str]:
        """With line ends."""
        info = self.info
        yield _head(info.name, info.kind, info.help)
        labels = ",".join(f'{name}="%s"' for name in info.labels)
        before = f"{info.name}{{{labels}}} " if labels else f"{info.name} "
        for values, value in self.rows:
            yield f"{before % tuple(map(_escaped, values))}{_number(value)}\n"

    def family(self) -> Metric:
        """For a registry."""
        info = self.info
        kind = CounterMetricFamily if info.kind == COUNTER else GaugeMetricFamily
        made = kind(info.name, info.help, labels=info.labels)
        for values, value in self.rows:
            made.add_metric(values, value)
        return made


def family_lines(family: Metric) -> Iterator[str]:
    """Of what a registry collected."""
    yield _head(family.name + "_total" * (family.type == COUNTER), family.type, family.documentation)
    for sample in family.samples:
        labels = ",".join([f'{name}="{_escaped(value)}"' for name, value in sample.labels.items()])
        yield f"{sample.name}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}\n"


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


@lru_cache(4096)
def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]
