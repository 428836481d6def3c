"""Quotas as Prometheus series, read when they are scraped."""

from collections.abc import Iterator

from proserve_core.admission.quota import QuotaKind
from proserve_gateway.exposition import MetricInfo, Table
from proserve_gateway.metrics import PREFIX, GatewayMetrics
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


class QuotaCollector:
    """Reads quotas at scrape time."""

    def __init__(self, quotas: Quotas, metrics: GatewayMetrics) -> None:
        self._quotas = quotas
        metrics.read((_LIMIT, _USED, _REFUSED, _UP, _GATEWAYS, _FAILURES), self._tables)

    def _tables(self) -> Iterator[Table]:
        quotas, tenants = self._quotas, list(self._quotas.tenants)
        yield Table(_LIMIT, (((each.name, use.kind), use.limit) for each in tenants for use in quotas.uses(each)))
        yield Table(_USED, (((each.name, use.kind), use.used) for each in tenants for use in quotas.uses(each)))
        yield Table(_REFUSED, (((each.name, kind), each.refusals[kind]) for each in tenants for kind in QuotaKind))
        # Without samples where there is no store.
        stores = [] if quotas.store is None else [quotas.store]
        yield Table(_UP, (((), store.up) for store in stores))
        yield Table(_GATEWAYS, (((), store.replicas) for store in stores))
        yield Table(_FAILURES, (((reason,), store.failures[reason]) for store in stores for reason in _REASONS))
