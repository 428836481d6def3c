"""Results of code that has changed without effect are kept, and say so."""

import msgspec
import pytest

from proserve_lab.report.carry_over import carried_over, differences, draw_sample, outdated_cells
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell, all_cells
from proserve_lab.report.document import batching_document
from proserve_lab.simulation.result import ClassFigures, PlanFigures

CELLS = [
    Cell(scenario=scenario, workload="azure-conv", load=load, policy=policy)
    for scenario in ("h100", "a100", "tight")
    for load in (0.5, 1.0, 2.0)
    for policy in ("fcfs", "edf", "bound")
]


def new(cell: Cell) -> str:
    """Fingerprint of the present code."""
    return f"new {cell.key}"


def newer(cell: Cell) -> str:
    return f"newer {cell.key}"


def result(cell: Cell, **fields: object) -> CellResult:
    return msgspec.structs.replace(
        CellResult(
            key=cell.key,
            fingerprint="old",
            rate=1.0,
            requests=9,
            tdg_ratio=0.5,
            classes={"high": ClassFigures(requests=9, tdg_ratio=0.5, slo_attainment=0.25)},
            plan_us=PlanFigures(p50=100.0, p99=200.0),
            simulated_s=60.0,
            cpu_s=4.0,
        ),
        **fields,
    )


def test_only_results_of_other_code_are_outdated() -> None:
    current = result(CELLS[1], fingerprint=f"new {CELLS[1].key}")
    results = {CELLS[0].key: result(CELLS[0]), CELLS[1].key: current}
    assert outdated_cells(CELLS, results, new) == [CELLS[0]]


@pytest.mark.parametrize(("asked", "drawn"), [(1, 3), (12, 12), (100, 27)])
def test_the_sample_has_every_policy_and_every_scenario(asked: int, drawn: int) -> None:
    sample = draw_sample(CELLS, asked, new)
    assert {cell.policy for cell in sample} == {"fcfs", "edf", "bound"}
    assert {cell.scenario for cell in sample} == {"h100", "a100", "tight"}
    assert len({cell.key for cell in sample}) == len(sample)
    assert drawn <= len(sample) <= max(drawn, 5)


def test_the_real_grid_is_covered_by_a_few_cells() -> None:
    cells = all_cells()
    sample = draw_sample(cells, 1, new)
    assert {cell.policy for cell in sample} == {cell.policy for cell in cells}
    assert {cell.scenario for cell in sample} == {cell.scenario for cell in cells}
    assert len(sample) < 40


def test_each_change_of_the_code_draws_its_own_sample() -> None:
    first = draw_sample(CELLS, 12, new)
    assert draw_sample(list(reversed(CELLS)), 12, new) == first
    assert draw_sample(CELLS, 12, newer) != first


def test_any_figure_counts_and_no_time_of_the_machine() -> None:
    stored = result(CELLS[0])
    later = result(CELLS[0], fingerprint="new", plan_us=PlanFigures(p50=1.0, p99=2.0), cpu_s=9.0)
    assert differences(stored, later) == []
    assert differences(stored, result(CELLS[0], tdg_ratio=0.500001)) == ["tdg_ratio 0.500001 (was 0.5)"]
    other_class = {"high": ClassFigures(requests=9, tdg_ratio=0.5, slo_attainment=0.26)}
    [line] = differences(stored, result(CELLS[0], classes=other_class))
    assert line.startswith("classes ")


def test_carried_results_have_the_new_fingerprint_and_keep_the_weakest_proof() -> None:
    results = {CELLS[0].key: result(CELLS[0]), CELLS[1].key: result(CELLS[1], carried=7)}
    once, twice = carried_over(CELLS[:2], results, new, checked=20)
    assert (once.fingerprint, once.carried) == (f"new {CELLS[0].key}", 20)
    assert (twice.tdg_ratio, twice.carried) == (0.5, 7)


def test_the_document_says_how_many_results_were_carried_over() -> None:
    cells = all_cells()[:3]
    results = {cell.key: result(cell, carried=carried) for cell, carried in zip(cells, (0, 20, 30), strict=True)}
    assert "2 of them were computed by an earlier version of the code; 20 others, chosen at" in batching_document(
        results
    )
    assert "earlier version" not in batching_document({cells[0].key: result(cells[0])})
