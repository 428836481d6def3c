"""One cell of the report on routing: simulate it, and say what its result depends on."""

import hashlib
import pkgutil
import time
from functools import cache

import msgspec

import proserve_core.routing
from proserve_core.batching.registry import make_policy
from proserve_core.replica import Replica
from proserve_core.routing.registry import LATE_ROUTERS, ROUTERS, make_room
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell
from proserve_lab.report.fingerprint import code_hash
from proserve_lab.report.routing_cells import FLEETS, latency_of, limits_of, workload_of
from proserve_lab.report.run_figures import class_figures, figures_of
from proserve_lab.report.scenarios import calibration_of
from proserve_lab.simulation.run import simulate

LAYOUT = 1
"""Counts up when results get other fields, so that all are computed anew."""


def routing_fingerprint(cell: Cell) -> str:
    """Changes when the cell's result may: with its code, its requests, its fleet."""
    inputs = _inputs(cell.scenario, cell.workload, cell.load)
    parts = (str(LAYOUT), inputs, _code(cell.policy, cell.variant))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@cache
def _inputs(scenario: str, workload: str, load: float) -> str:
    """Hash of a fleet and its requests."""
    fleet = FLEETS[scenario]
    latencies = [latency_of(fleet, number, calibration_of(gpu).latency) for number, gpu in enumerate(fleet.gpus)]
    inputs = msgspec.json.encode((workload_of(scenario, workload, load), fleet, latencies))
    return hashlib.sha256(inputs).hexdigest()


def run_routing_cell(cell: Cell) -> CellResult:
    """Simulate a cell until its last deadline is past."""
    started_s = time.process_time()
    fleet = FLEETS[cell.scenario]
    requests, prefixes = workload_of(cell.scenario, cell.workload, cell.load)
    replicas = []
    for number, gpu in enumerate(fleet.gpus):
        calibration = calibration_of(gpu)
        replicas.append(
            Replica(
                policy=make_policy(cell.variant),
                policy_name=cell.variant,
                limits=limits_of(fleet, calibration),
                latency=latency_of(fleet, number, calibration.latency),
                engine_id=f"replica-{number}",
            )
        )
    run = simulate(
        requests,
        replicas=replicas,
        rooms=[make_room(cell.policy) for _ in range(fleet.gateways)],
        staleness_s=fleet.staleness_s,
        prefixes=prefixes,
        to_the_end=False,
    )
    result = figures_of(cell, run, fingerprint=routing_fingerprint(cell), cpu_s=time.process_time() - started_s)
    return msgspec.structs.replace(
        result,
        classes=class_figures(run),
        busy_s=round(run.busy_s, 3),
        computed_tokens=run.computed_tokens,
        recomputed_tokens=run.recomputed_tokens,
    )


@cache
def _code(router: str, policy: str) -> str:
    """Of the simulation, of one router and of one batching policy; routers may use anything of their package."""
    package = proserve_core.routing
    routers = {**ROUTERS, **LATE_ROUTERS}
    own = routers[router].__module__
    others = {made.__module__ for made in routers.values()} - {own}
    modules = {f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)}
    return code_hash(
        (
            "proserve_lab.simulation.run",
            "proserve_lab.simulation.fleet",
            "proserve_core.replica",
            "proserve_core.capacity",
            "proserve_core.capacity_rows",
            type(make_policy(policy)).__module__,
            *sorted(modules - others),
        )
    )
