"""What all reports keep of a simulation."""

from collections.abc import Sequence

from proserve_lab.judgement import percentile
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell
from proserve_lab.simulation.result import ClassFigures, PlanFigures
from proserve_lab.simulation.run import SimulationRun
from proserve_lab.simulation.workload import SimulatedRequest

DIGITS = 6


def figures_of(cell: Cell, run: SimulationRun, *, fingerprint: str, cpu_s: float) -> CellResult:
    """A result with the figures that every report has; a report adds its own."""
    total = run.ledger.total()
    return CellResult(
        key=cell.key,
        fingerprint=fingerprint,
        rate=rate_of([outcome.request for outcome in run.outcomes]),
        requests=total.requests,
        tdg_ratio=round(total.tdg_ratio, DIGITS),
        slo_attainment=round(total.slo_attainment, DIGITS),
        steps=run.steps,
        preemptions=run.preemptions,
        simulated_s=round(run.simulated_s, 3),
        cpu_s=round(cpu_s, 1),
    )


def rate_of(requests: Sequence[SimulatedRequest]) -> float:
    """Requests per second, of requests in order of arrival."""
    return round((len(requests) - 1) / (requests[-1].arrival_s - requests[0].arrival_s), DIGITS)


def class_figures(run: SimulationRun) -> dict[str, ClassFigures]:
    """By class."""
    return {
        name: ClassFigures(
            requests=totals.requests,
            tdg_ratio=round(totals.tdg_ratio, DIGITS),
            slo_attainment=round(totals.slo_attainment, DIGITS),
        )
        for name, totals in sorted(run.ledger.by_class().items())
    }


def plan_figures(durations_s: Sequence[float]) -> PlanFigures:
    """How long plans took."""
    return PlanFigures(
        p50=round(1e6 * (percentile(durations_s, 50) or 0.0), 1),
        p99=round(1e6 * (percentile(durations_s, 99) or 0.0), 1),
    )
