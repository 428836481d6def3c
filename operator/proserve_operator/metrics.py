"""What the operator says of itself, and of the resources it looks after, to Prometheus."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PREFIX = "proserve_operator_"
RESULTS = ("ok", "retry", "error")
RECONCILE_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)

Resources = Callable[[], Iterable[tuple[str, Mapping[str, Any]]]]
"""Kind and newest version of each resource."""


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """One metric in the table of docs/operator.md."""

    name: str
    kind: str
    labels: Sequence[str]
    text: str


_RESOURCES = _Row(
    name=PREFIX + "resources",
    kind="gauge",
    labels=("kind", "condition", "status", "reason"),
    text="Resources by status and reason of each of their conditions, in the replica that acts.",
)


_MISSING_SINCE = _Row(
    name=PREFIX + "engines_missing_since_timestamp_seconds",
    kind="gauge",
    labels=(),
    text="Since when the pool that has waited longest lacks engines, in the replica that acts; no series while all "
    "pools are complete.",
)


class ResourceCounts(Collector):
    """How many resources are in which state: conditions and reasons are closed lists, so there are few series however
    many resources there are. Counted when it is asked for, so nothing is left of resources that are gone."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See `Collector`."""
        family = GaugeMetricFamily(_RESOURCES.name, _RESOURCES.text, labels=_RESOURCES.labels)
        rows = (
            (kind, each["type"], each["status"], each["reason"])
            for kind, body in self._resources()
            for each in body.get("status", {}).get("conditions", ())
        )
        for row, count in sorted(Tally(rows).items()):
            family.add_metric(row, count)
        yield family
        yield self._missing_since()

    def _missing_since(self) -> GaugeMetricFamily:
        # Of counts nobody could tell one pool that lacks engines for hours from many that roll one after the other.
        family = GaugeMetricFamily(_MISSING_SINCE.name, _MISSING_SINCE.text)
        since_s = [
            datetime.fromisoformat(each["lastTransitionTime"]).timestamp()
            for _, body in self._resources()
            for each in body.get("status", {}).get("conditions", ())
            if (each["type"], each["status"]) == ("Complete", "False")
        ]
        if since_s:
            family.add_metric((), min(since_s))
        return family


class OperatorMetrics:
    """All series, in a registry of their own."""

    def __init__(self, *, queue_length: Callable[[], int], resources: Resources) -> None:
        self.registry = CollectorRegistry()
        self.table = [_RESOURCES, _MISSING_SINCE]
        self.registry.register(ResourceCounts(resources))
        self.leader = self._gauge("leader", "1 in the replica that acts.")
        self.reconciles = self._counter(
            "reconciles",
            ("kind", "result"),
            "Looks at a resource: ok; retry: the API server could not do what was asked; error: a fault of the "
            "operator, which its log tells in full.",
        )
        self.reconcile_s = self._histogram(
            "reconcile_seconds", ("kind",), "Time of one look at a resource.", RECONCILE_BUCKETS_S
        )
        self.last_success_s = self._gauge(
            "last_success_timestamp_seconds", "When a look at a resource of the kind last went well.", ("kind",)
        )
        self.events = self._counter("watch_events", ("kind",), "Events of watches, first lists included.")
        self.missed = self._counter(
            "watch_missed",
            ("kind",),
            "Changes that a comparison with the API server found and no watch had shown.",
        )
        self.unlisted = self._gauge(
            "unlisted",
            "Lists (each of a kind, in a namespace or in the cluster) that the operator had no right to read when it "
            "last compared its watches with the API server.",
        )
        self.gateways = self._gauge("gateways", "Gateways that report gain.")
        self.gateways_silent = self._gauge(
            "gateways_silent", "Gateways that have an address and do not report: meanwhile no engine is taken away."
        )
        self._gauge("queue_length", "Resources that wait to be looked at.").set_function(queue_length)

    def begin(self, *, own_kinds: Iterable[str], managed_kinds: Iterable[str]) -> None:
        """Count from 0: a series that appears with a value has no increase, and its first fault would alert nobody."""
        own = tuple(own_kinds)
        for kind in (*own, *managed_kinds):
            self.missed.labels(kind)
        for kind in own:
            for result in RESULTS:
                self.reconciles.labels(kind, result)

    def _counter(self, name: str, labels: Sequence[str], text: str) -> Counter:
        self.table.append(_Row(name=f"{PREFIX}{name}_total", kind="counter", labels=labels, text=text))
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        self.table.append(_Row(name=PREFIX + name, kind="gauge", labels=labels, text=text))
        return Gauge(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, labels: Sequence[str], text: str, buckets: Sequence[float]) -> Histogram:
        self.table.append(_Row(name=PREFIX + name, kind="histogram", labels=labels, text=text))
        return Histogram(PREFIX + name, text, labels, registry=self.registry, buckets=buckets)

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)


def metrics_markdown() -> str:
    """Table of all metrics by name, in docs/operator.md (`make docs`)."""
    rows = sorted(OperatorMetrics(queue_length=lambda: 0, resources=tuple).table, key=lambda row: row.name)
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{row.name}` | {row.kind} | {', '.join(f'`{label}`' for label in row.labels)} | {row.text} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
