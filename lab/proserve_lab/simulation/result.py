"""The figures of a simulation, in the form that `proserve simulate --format json` prints."""

from collections.abc import Sequence
from typing import TextIO

import msgspec

from proserve_core.gain import GainTotals
from proserve_lab.judgement import percentile
from proserve_lab.simulation.run import Outcome, SimulationRun


class ClassFigures(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    tdg_ratio: float
    slo_attainment: float


class PlanFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Time to plan a step, microseconds of wall time."""

    p50: float
    p99: float


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """Field names are a contract: scripts read them."""

    policy: str
    router: str
    replicas: int
    rate: float
    """Mean arrivals per second that were simulated."""
    requests: int
    tdg_ratio: float
    slo_attainment: float
    classes: dict[str, ClassFigures]
    steps: int
    preemptions: int
    plan_us: PlanFigures
    simulated_s: float
    wall_s: float


def summarise(
    run: SimulationRun, *, policy: str, router: str, replicas: int, plan_s: Sequence[float], wall_s: float
) -> SimulationResult:
    """Sum a run up."""
    total = run.ledger.total()
    arrivals_s = [outcome.request.arrival_s for outcome in run.outcomes]
    span_s = arrivals_s[-1] - arrivals_s[0]
    return SimulationResult(
        policy=policy,
        router=router,
        replicas=replicas,
        rate=round((len(arrivals_s) - 1) / span_s, 6) if span_s > 0 else 0.0,
        requests=total.requests,
        tdg_ratio=total.tdg_ratio,
        slo_attainment=total.slo_attainment,
        classes={name: _class_figures(totals) for name, totals in sorted(run.ledger.by_class().items())},
        steps=run.steps,
        preemptions=run.preemptions,
        plan_us=PlanFigures(p50=1e6 * (percentile(plan_s, 50) or 0.0), p99=1e6 * (percentile(plan_s, 99) or 0.0)),
        simulated_s=run.simulated_s,
        wall_s=wall_s,
    )


def write_token_log(outcomes: Sequence[Outcome], file: TextIO) -> None:
    """One JSON line per request, in order of arrival: enough to recompute the gain."""
    for outcome in outcomes:
        request = outcome.request
        record = {
            "id": request.id,
            "class": request.terms.priority_class,
            "weight": request.terms.weight,
            "arrival": request.arrival_s,
            "prompt_tokens": request.prompt_tokens,
            "output_tokens": request.output_tokens,
            "ttft_s": request.terms.objectives.ttft_s,
            "tpot_s": request.terms.objectives.tpot_s,
            "emitted": outcome.emitted_s,
        }
        file.write(msgspec.json.encode(record).decode() + "\n")


def _class_figures(totals: GainTotals) -> ClassFigures:
    return ClassFigures(requests=totals.requests, tdg_ratio=totals.tdg_ratio, slo_attainment=totals.slo_attainment)
