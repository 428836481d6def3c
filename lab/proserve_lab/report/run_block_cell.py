"""One cell of the report on KV blocks: simulate it, and say what its result depends on."""

import hashlib
import pkgutil
import time
from functools import cache

import msgspec

import proserve_core.blocks
from proserve_core.batching.registry import make_policy
from proserve_core.replica import Replica
from proserve_lab.report.block_cells import kv_host_of, requests_for, short_limits
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell
from proserve_lab.report.fingerprint import code_hash
from proserve_lab.report.run_figures import figures_of, plan_figures
from proserve_lab.report.scenarios import calibration_of
from proserve_lab.simulation.result import kv_figures
from proserve_lab.simulation.run import simulate
from proserve_lab.simulation.timed import TimedPolicy

LAYOUT = 1
"""Counts up when results get other fields, so that all are computed anew."""


def block_fingerprint(cell: Cell) -> str:
    """Changes when the cell's result may: with its code, its requests, its engine, what is switched on."""
    host = kv_host_of(cell)
    engine = (short_limits(cell), calibration_of(cell.scenario).latency, host and (host.settings, host.transfer))
    inputs = msgspec.json.encode((requests_for(cell), *engine))
    rule = host and (host.adaptive.__name__, host.by_gain)
    parts = (str(LAYOUT), str(rule), hashlib.sha256(inputs).hexdigest(), _code(cell.policy))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def run_block_cell(cell: Cell) -> CellResult:
    """Simulate a cell until its last deadline is past."""
    started_s = time.process_time()
    policy = TimedPolicy(make_policy(cell.policy), clock=time.thread_time)
    replica = Replica(
        policy=policy,
        policy_name=cell.policy,
        limits=short_limits(cell),
        latency=calibration_of(cell.scenario).latency,
        kv_host=kv_host_of(cell),
    )
    run = simulate(requests_for(cell), replicas=[replica], to_the_end=False)
    result = figures_of(cell, run, fingerprint=block_fingerprint(cell), cpu_s=time.process_time() - started_s)
    return msgspec.structs.replace(
        result,
        plan_us=plan_figures(policy.durations_s),
        busy_s=round(run.busy_s, 3),
        computed_tokens=run.computed_tokens,
        recomputed_tokens=run.recomputed_tokens,
        kv=kv_figures(run.hosts),
    )


@cache
def _code(policy: str) -> str:
    package = proserve_core.blocks
    blocks = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    return code_hash(
        (
            "proserve_lab.simulation.run",
            "proserve_core.replica",
            "proserve_core.kv_host",
            "proserve_core.replica_kv",
            "proserve_core.replica_link",
            type(make_policy(policy)).__module__,
            *blocks,
        )
    )
