"""The admin port: liveness, readiness, metrics, and the state of engines and gain as JSON.

Apart from the data port, so that it can stay inside the cluster; nothing here needs or shows a key.
"""

from collections.abc import Callable, Iterable

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from proserve_core.admission.headroom import HeadroomUse
from proserve_core.gain import GainTotals
from proserve_core.gain_status import GainStatus
from proserve_gateway.admin.console_page import console_routes
from proserve_gateway.admin.operator_report import report_route
from proserve_gateway.admin.seeing import seeing_routes
from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.configuration.configuration import Problems
from proserve_gateway.fleet.engine_decisions import EngineDecisions
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.status import EngineStatus
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.seeing import Seeing

FIRST_POLLS_S = 10.0
"""In a cluster: how long a gateway that has just started waits for engines of every pool."""


class GatewayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `/status`."""

    ready: bool
    missing: list[str]
    """Why it is not ready."""
    configuration_error: str
    """Why the newest configuration was refused; empty while it is in force."""
    engines: list[EngineStatus]
    classes: dict[str, GainStatus]
    """Every configured class and whatever else has been served, by name."""
    tenants: dict[str, GainStatus]
    total: GainStatus
    headroom: dict[str, list[HeadroomUse]]
    """Shares of engine time by pool and class, of pools in which any class has headroom."""


class Readiness:
    """Whether a load balancer should send requests here: every pool can serve, and the gateway is not leaving.

    Once that was so, a pool without engines costs its own clients a 503 that says so, and not everybody the gateway:
    then it is ready while any pool can serve. In a cluster, where pools come and go by many hands, it is asked for a
    while only, and no more afterwards.
    """

    def __init__(self, fleet: Fleet, *, clock: Callable[[], float], in_cluster: bool = False) -> None:
        self._fleet = fleet
        self._clock = clock
        self._in_cluster = in_cluster
        self._given_up_s: float | None = None if in_cluster else float("inf")
        """When pools without engines are no longer waited for; None: no configuration has come yet."""
        self._was_complete = False
        """Every pool had an engine at some time."""
        self.stopping = False
        """Set when shutdown begins: readiness goes first, then requests end."""

    def configured(self) -> None:
        """A configuration is in force."""
        if self._given_up_s is None:
            self._given_up_s = self._clock() + FIRST_POLLS_S

    def missing(self, pools: Iterable[str]) -> list[str]:
        """What keeps the gateway from being ready; empty when it is."""
        if self.stopping:
            return ["the gateway is shutting down"]
        if self._given_up_s is None:
            return ["the cluster's resources have not been read yet"]
        if self._clock() >= self._given_up_s:
            return []
        wanted = list(pools)
        missing = self._without_engines(wanted)
        if not missing:
            self._was_complete = self._was_complete or bool(wanted)
            if self._in_cluster:
                self._given_up_s = float("-inf")
        elif self._was_complete and len(missing) < len(wanted):
            return []
        return missing

    def _without_engines(self, pools: Iterable[str]) -> list[str]:
        rows = self._fleet.status()
        missing = []
        for pool in pools:
            if not self._fleet.usable(pool) and pool not in self._fleet.first_engines.pools:
                states = ", ".join(_state(row) for row in rows if row.pool == pool) or "it has no engines"
                missing.append(f"pool {pool}: no engine can take requests ({states})")
        return missing


def _state(row: EngineStatus) -> str:
    return f"{row.name} is {row.state}: {row.last_error}" if row.last_error else f"{row.name} is {row.state}"


def admin_app(
    *,
    catalog: Callable[[], Catalog],
    fleet: Fleet,
    accounting: Accounting,
    metrics: GatewayMetrics,
    readiness: Readiness,
    seeing: Seeing,
    problems: Callable[[], Problems],
    configuration_error: Callable[[], str],
    of_engine: EngineDecisions,
) -> Starlette:
    """`catalog()` is the configuration in force, `problems()` what is wrong with resources that are not in it, and
    `configuration_error()` why a newer one is not in force."""

    def missing() -> list[str]:
        return readiness.missing(pool.name for pool in catalog().pools.values())

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        reasons = missing()
        body = "".join(f"{reason}\n" for reason in reasons) or "ready\n"
        return PlainTextResponse(body, status_code=503 if reasons else 200)

    async def metrics_(_: Request) -> Response:
        return Response(await metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def status(_: Request) -> Response:
        reasons = missing()
        body = GatewayStatus(
            ready=not reasons,
            missing=reasons,
            configuration_error=configuration_error(),
            engines=fleet.status(),
            classes=_by_class(catalog(), accounting),
            tenants=_by_tenant(accounting),
            total=GainStatus.of(accounting.ledger.total()),
            headroom=fleet.headroom_uses(),
        )
        return Response(msgspec.json.encode(body), media_type="application/json")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/livez", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics_),
            Route("/status", status),
            *console_routes(),
            *seeing_routes(catalog=catalog, decisions=seeing.decisions, history=seeing.history, of_engine=of_engine),
            report_route(catalog=catalog, fleet=fleet, accounting=accounting, problems=problems),
        ]
    )


def _by_class(catalog: Catalog, accounting: Accounting) -> dict[str, GainStatus]:
    sums = {name: GainTotals() for name in catalog.priority_classes} | accounting.ledger.by_class()
    return {name: GainStatus.of(totals) for name, totals in sums.items()}


def _by_tenant(accounting: Accounting) -> dict[str, GainStatus]:
    return {name: GainStatus.of(totals) for name, totals in accounting.ledger.by_tenant().items()}
