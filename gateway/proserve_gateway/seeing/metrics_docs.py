"""The table of the gateway's metrics in docs/metrics.md (`make docs`)."""

import time

from proserve_core.objectives import DEFAULT_CLASS
from proserve_core.resources import Resources
from proserve_core.routing import make_room
from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.metrics import FleetCollector
from proserve_gateway.metrics import GatewayMetrics, table_markdown
from proserve_gateway.quotas.metrics import QuotaCollector
from proserve_gateway.quotas.quotas import Quotas
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.accounting_metrics import AccountingCollector
from proserve_gateway.seeing.class_metrics import ClassCollector


def all_metrics() -> GatewayMetrics:
    """The metrics of a gateway as it runs."""
    metrics = GatewayMetrics()
    AccountingCollector(Accounting(metrics), metrics)
    FleetCollector(Fleet(make_room=make_room, clock=time.monotonic), metrics)
    QuotaCollector(Quotas(), metrics)
    catalog = Catalog.from_resources(Resources(priority_classes=(DEFAULT_CLASS,)))
    ClassCollector(lambda: catalog, metrics)
    return metrics


def metrics_markdown() -> str:
    """One row per metric, by name."""
    return table_markdown(sorted(all_metrics().table, key=lambda row: row.name))
