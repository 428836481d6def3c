"""Quotas as Prometheus series, read when they are scraped."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proserve_gateway.metrics import PREFIX, GatewayMetrics, MetricInfo
from proserve_gateway.quotas.quotas import Quotas

_LABELS = ("tenant", "quota")


def _info(kind: str, name: str, labels: tuple[str, ...], text: str) -> MetricInfo:
    return MetricInfo(name=PREFIX + name, kind=kind, labels=labels, help=text)


_LIMIT = _info("gauge", "quota_limit", _LABELS, "Limits of tenants that have sent something.")
_USED = _info(
    "gauge",
    "quota_used",
    _LABELS,
    "What is used of them: of the last minute, or in flight; over all gateways that share a store.",
)
_REFUSED = _info("counter", "quota_refusals_total", _LABELS, "Requests refused, by the quota that was used up.")
_UP = _info("gauge", "quota_store_up", (), "1 while the quota store answers; only with one.")
_GATEWAYS = _info("gauge", "quota_store_gateways", (), "Gateways that share the quota store, as last known.")
_FAILURES = _info(
    "counter",
    "quota_store_failures_total",
    ("reason",),
    "Calls of the quota store that failed (connection, timeout, refused), found its data lost (lost_data) or kept a "
    "request waiting (slow).",
)
_REASONS = ("connection", "lost_data", "refused", "slow", "timeout")


class QuotaCollector(Collector):
    """Reads quotas at scrape time."""

    def __init__(self, quotas: Quotas, metrics: GatewayMetrics) -> None:
        self._quotas = quotas
        for info in (_LIMIT, _USED, _REFUSED, _UP, _GATEWAYS, _FAILURES):
            metrics.declare(info)
        metrics.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        limit = GaugeMetricFamily(_LIMIT.name, _LIMIT.help, labels=_LABELS)
        used = GaugeMetricFamily(_USED.name, _USED.help, labels=_LABELS)
        refused = CounterMetricFamily(_REFUSED.name, _REFUSED.help, labels=_LABELS)
        for tenant, uses, refusals in self._quotas.by_tenant():
            for use in uses:
                limit.add_metric((tenant, use.kind), use.limit)
                used.add_metric((tenant, use.kind), use.used)
            for kind, count in refusals.items():
                refused.add_metric((tenant, kind), count)
        yield from (limit, used, refused)
        yield from self._store()

    def _store(self) -> Iterator[Metric]:
        """Without samples where there is no store."""
        up = GaugeMetricFamily(_UP.name, _UP.help, labels=())
        gateways = GaugeMetricFamily(_GATEWAYS.name, _GATEWAYS.help, labels=())
        failures = CounterMetricFamily(_FAILURES.name, _FAILURES.help, labels=_FAILURES.labels)
        if (store := self._quotas.store) is not None:
            up.add_metric((), store.up)
            gateways.add_metric((), store.replicas)
            for reason in _REASONS:
                failures.add_metric((reason,), store.failures[reason])
        yield from (up, gateways, failures)
