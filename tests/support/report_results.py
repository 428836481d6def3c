"""Made-up results of the report: the same gain in every cell of a policy."""

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import BOUND, OURS, Cell, all_cells
from proserve_lab.report.urgent_probe import Moment
from proserve_lab.simulation.result import ClassFigures, PlanFigures

GAINS = {OURS: 0.9, "slide-batching": 0.8, "qoserve": 0.7, BOUND: 0.95}


def results(gains: dict[str, float]) -> dict[str, CellResult]:
    """The same gain in every cell of a policy."""
    return {cell.key: result(cell, gains[cell.policy]) for cell in all_cells() if cell.policy in gains}


def result(cell: Cell, gain: float) -> CellResult:
    return CellResult(
        key=cell.key,
        fingerprint="f",
        rate=10.0,
        requests=100,
        tdg_ratio=gain,
        slo_attainment=gain - 0.1,
        classes={
            "high": ClassFigures(requests=50, tdg_ratio=gain, slo_attainment=gain),
            "low": ClassFigures(requests=50, tdg_ratio=gain / 3, slo_attainment=gain),
        },
        lost={"late_first_token": 1 - gain},
        steps=1000,
        plan_us=PlanFigures(p50=50, p99=200),
        simulated_s=20.0,
        timeline=tuple(Moment(second=second, requests=5, urgent_share=0.2) for second in range(60)),
    )
