"""`/report` of the admin port: what the operator makes statuses and scaling from (`proserve_core.gain_report`)."""

import uuid
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proserve_core.capacity import CapacitySnapshot
from proserve_core.gain import GainTotals
from proserve_core.gain_report import REPORT_PATH, EngineReport, GainReport
from proserve_core.scaling import loss_with_one_less, stake
from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.configuration.configuration import Problems
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.seeing.accounting import Accounting


def report_route(
    *, catalog: Callable[[], Catalog], fleet: Fleet, accounting: Accounting, problems: Callable[[], Problems]
) -> Route:
    """`catalog()` and `problems()` are those of the configuration in force."""
    instance = uuid.uuid4().hex

    async def report(_: Request) -> Response:
        ready = {engine.target.name for engine in fleet.taking_work()}
        snapshots = _snapshots(fleet)
        body = GainReport(
            instance=instance,
            classes=accounting.ledger.by_class(),
            tenants=accounting.ledger.by_tenant(),
            pools=_by_pool(catalog(), accounting),
            engines=[
                EngineReport(
                    name=engine.target.name,
                    pool=engine.target.pool,
                    ready=engine.target.name in ready,
                    stake=0.0 if engine.view.snapshot is None else stake(engine.view.snapshot),
                )
                for engine in fleet.engines
            ],
            loss_with_one_less={
                pool: loss for pool, of_pool in snapshots.items() if (loss := loss_with_one_less(of_pool)) is not None
            },
            open_requests=fleet.open_requests(),
            problems={name: list(lines) for name, lines in problems().items()},
        )
        return Response(msgspec.json.encode(body), media_type="application/json")

    return Route(REPORT_PATH, report)


def _snapshots(fleet: Fleet) -> dict[str, list[CapacitySnapshot]]:
    """Of engines that may take work, by pool."""
    found: dict[str, list[CapacitySnapshot]] = {}
    for engine in fleet.taking_work():
        if engine.view.snapshot is not None:
            found.setdefault(engine.target.pool, []).append(engine.view.snapshot)
    return found


def _by_pool(catalog: Catalog, accounting: Accounting) -> dict[str, dict[str, GainTotals]]:
    pools: dict[str, dict[str, GainTotals]] = {}
    for (model, priority_class), totals in accounting.by_model.items():
        if (pool := catalog.pools.get(model)) is not None:
            pools.setdefault(pool.name, {})[priority_class] = totals
    return pools
