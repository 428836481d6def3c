"""One cell: simulate it, and say what its result depends on."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache

import msgspec

from proserve_core.batching import BatchingPolicy
from proserve_core.batching.registry import make_policy
from proserve_core.batching.slide_batching import SlideBatching
from proserve_core.batching.sliding_serve import SlidingServe
from proserve_core.replica import Replica
from proserve_lab.bound.fluid import fluid_bound
from proserve_lab.report.ablations import ablated, told
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import BOUND, OURS, UNKNOWN, Cell
from proserve_lab.report.fingerprint import code_hash
from proserve_lab.report.latency_probe import LatencyProbe
from proserve_lab.report.run_figures import DIGITS, class_figures, figures_of, plan_figures, rate_of
from proserve_lab.report.scenarios import SCENARIOS, calibration_of, limits_of, requests_of
from proserve_lab.report.urgent_probe import UrgentProbe
from proserve_lab.report.workloads import BOUND_BUCKETS_S
from proserve_lab.simulation.run import SimulationRun, simulate
from proserve_lab.simulation.timed import TimedPolicy
from proserve_lab.simulation.workload import SimulatedRequest

LAYOUT = 1
"""Counts up when results get other fields, so that all are computed anew."""
_SIMULATION = ("proserve_lab.simulation.run", "proserve_core.replica")


def fingerprint(cell: Cell) -> str:
    """Changes when the cell's result may: with its code, its requests, its engine."""
    parts = (str(LAYOUT), repr(cell.options), _inputs_hash(cell.scenario, cell.workload, cell.load), _code(cell))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def run_cell(cell: Cell) -> CellResult:
    """Simulate a cell until its last deadline is past, or bound it."""
    started_s = time.process_time()
    if cell.policy == BOUND:
        return _run_bound(cell, started_s)
    requests: Sequence[SimulatedRequest] = requests_of(cell.scenario, cell.workload, cell.load)
    engine = calibration_of(cell.scenario)
    noise = SCENARIOS[cell.scenario].noise()
    if _is_ablation(cell):
        requests = told(cell.variant, requests)
    with ablated(cell.variant) if _is_ablation(cell) else nullcontext():
        policy = make_policy(cell.policy, dict(cell.options))
        probe = _probe(cell, policy)
        timed = TimedPolicy(probe or policy, clock=time.thread_time)
        replica = Replica(
            policy=timed,
            policy_name=cell.policy,
            limits=limits_of(cell.scenario),
            latency=engine.latency,
        )
        run = simulate(requests, replicas=[replica], to_the_end=False, noise=noise)
    result = _result(cell, run, policy, timed, time.process_time() - started_s)
    if isinstance(probe, UrgentProbe):
        return msgspec.structs.replace(result, timeline=probe.timeline())
    if isinstance(probe, LatencyProbe):
        return msgspec.structs.replace(result, corrections=probe.corrections())
    return result


def _probe(cell: Cell, policy: BatchingPolicy) -> UrgentProbe | LatencyProbe | None:
    """Looks closer at the policy in a few cells."""
    if cell.scenario == "burst" and isinstance(policy, SlideBatching):
        return UrgentProbe(policy)
    if cell.scenario == "noise" and cell.policy == OURS:
        return LatencyProbe(policy, calibration_of(cell.scenario).latency)
    return None


def _run_bound(cell: Cell, started_s: float) -> CellResult:
    requests = requests_of(cell.scenario, cell.workload, cell.load)
    found = fluid_bound(
        requests,
        latency=calibration_of(cell.scenario).latency,
        limits=limits_of(cell.scenario),
        lengths_known=cell.variant != UNKNOWN,
        bucket_s=_bucket_s(cell),
    )
    return CellResult(
        key=cell.key,
        fingerprint=fingerprint(cell),
        rate=rate_of(requests),
        requests=len(requests),
        tdg_ratio=round(found.tdg_bound, DIGITS),
        cpu_s=round(time.process_time() - started_s, 1),
        note=found.status,
    )


def _bucket_s(cell: Cell) -> float:
    """For unknown lengths, which take longer, twice as wide."""
    return BOUND_BUCKETS_S[cell.workload] * (2 if cell.variant == UNKNOWN else 1)


def _result(cell: Cell, run: SimulationRun, policy: BatchingPolicy, timed: TimedPolicy, cpu_s: float) -> CellResult:
    total = run.ledger.total()
    return msgspec.structs.replace(
        figures_of(cell, run, fingerprint=fingerprint(cell), cpu_s=cpu_s),
        classes=class_figures(run),
        lost={cause.value: round(gain / total.earnable, DIGITS) for cause, gain in sorted(total.lost.items())},
        plan_us=plan_figures(timed.durations_s),
        fidelity={name.value: value for name, value in policy.predictor.fidelity().items()}
        if isinstance(policy, SlidingServe)
        else {},
    )


def _is_ablation(cell: Cell) -> bool:
    """Whether a part of our own policy is replaced; variants of others are options."""
    return cell.policy == OURS and bool(cell.variant)


@cache
def _inputs_hash(scenario: str, workload: str, load: float) -> str:
    """Of the requests, the engine, and the first step times' noise."""
    noise = SCENARIOS[scenario].noise()
    inputs = (
        requests_of(scenario, workload, load),
        limits_of(scenario),
        calibration_of(scenario).latency,
        [noise() for _ in range(1000)],
    )
    return hashlib.sha256(msgspec.json.encode(inputs)).hexdigest()


def _code(cell: Cell) -> str:
    if cell.policy == BOUND:
        return f"{_hash_of(fluid_bound.__module__)} {_bucket_s(cell)}"
    policy = make_policy(cell.policy, dict(cell.options))
    modules = [type(part).__module__ for part in (policy, _probe(cell, policy)) if part is not None]
    if _is_ablation(cell):
        modules.append(ablated.__module__)
    return _hash_of(*_SIMULATION, *modules)


@cache
def _hash_of(*modules: str) -> str:
    return code_hash(modules)
