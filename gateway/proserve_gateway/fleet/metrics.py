"""Fleet series: gauges are made when they are scraped, decisions are counted as they fall."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import Counter

from proserve_core.admission.headroom import HeadroomUse
from proserve_gateway.exposition import MetricInfo, Row, Table
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.health import EngineState
from proserve_gateway.fleet.status import EngineStatus
from proserve_gateway.metrics import PREFIX, Bounded, GatewayMetrics

MAX_REASONS = 64
"""Reasons are phrases of the routing policies: few, but free text."""

_LABELS = ("engine", "pool")
_STATE = MetricInfo(
    name=f"{PREFIX}engine_state",
    kind="gauge",
    labels=(*_LABELS, "state"),
    help=f"1 for the state the engine is in, of {', '.join(EngineState)}.",
)
_IN_FLIGHT = MetricInfo(
    name=f"{PREFIX}engine_requests_in_flight",
    kind="gauge",
    labels=_LABELS,
    help="Requests that this gateway has at the engine.",
)
_POLL_AGE = MetricInfo(
    name=f"{PREFIX}engine_poll_age_seconds",
    kind="gauge",
    labels=_LABELS,
    help="Since the engine's last answer to a poll; up to the long poll's wait while it is idle.",
)
_WAITING = MetricInfo(
    name=f"{PREFIX}requests_waiting",
    kind="gauge",
    labels=("pool", "class"),
    help="Requests that wait for an engine, in pools with a waiting room and in those without any engine.",
)
_HEADROOM = MetricInfo(
    name=f"{PREFIX}headroom_share",
    kind="gauge",
    labels=("pool", "class", "kind"),
    help="Shares of the pool's engine time of the last seconds, where any class has headroom: held by the class, used "
    "by it, lent (held, not used by it, used by others), borrowed (used beyond what is held).",
)


class RouteCounter:
    """Counts routing decisions by reason; `Fleet(on_decision=RouteCounter(metrics))`."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._reason_label = Bounded(MAX_REASONS)
        self._children: dict[tuple[str, str], Counter] = {}

    def __call__(self, pool: str, reason: str) -> None:
        child = self._children.get((pool, reason))
        if child is None:
            label = self._reason_label(reason)
            child = self._metrics.decisions.labels(pool, label)
            if label == reason:
                self._children[pool, reason] = child
        child.inc()


class FleetCollector:
    """Reads the fleet at scrape time."""

    def __init__(self, fleet: Fleet, metrics: GatewayMetrics) -> None:
        self._fleet = fleet
        metrics.read((_STATE, _IN_FLIGHT, _POLL_AGE, _WAITING, _HEADROOM), self._tables)

    def _tables(self) -> Iterator[Table]:
        rows = self._fleet.status()
        yield Table(_STATE, (((*_labels(row), name), row.state is name) for row in rows for name in EngineState))
        yield Table(_IN_FLIGHT, ((_labels(row), row.in_flight) for row in rows))
        yield Table(_POLL_AGE, ((_labels(row), row.poll_age_s) for row in rows if row.poll_age_s is not None))
        waiting = [(pool, dict(classes)) for pool, classes in self._fleet.waiting_by_class()]
        yield Table(_WAITING, (((pool, name), count) for pool, classes in waiting for name, count in classes.items()))
        yield Table(_HEADROOM, self._shares(self._fleet.headroom_uses()))

    def _shares(self, pools: Mapping[str, Sequence[HeadroomUse]]) -> Iterator[Row]:
        for pool, uses in pools.items():
            for use in uses:
                shares = {"held": use.held, "used": use.used, "lent": use.lent, "borrowed": use.borrowed}
                for kind, share in shares.items():
                    yield (pool, use.priority_class, kind), share


def _labels(row: EngineStatus) -> tuple[str, str]:
    return row.name, row.pool
