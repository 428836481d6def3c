"""Cells are run once, again when stale, and a failing one stops nobody."""

import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import msgspec
import pytest

from proserve_lab.report import runner
from proserve_lab.report.cell_result import CellResult, ResultStore
from proserve_lab.report.cells import Cell
from proserve_lab.report.runner import RunProgress, missing_cells, run_cells

CELLS = [Cell(scenario="h100", workload="azure-conv", load=load, policy="fcfs") for load in (0.5, 1.0, 2.0)]


@pytest.fixture(autouse=True)
def fingerprints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "fingerprint", lambda _: "current")


def result(cell: Cell) -> CellResult:
    return CellResult(key=cell.key, fingerprint="current", rate=1.0, requests=1, tdg_ratio=cell.load / 2)


def test_only_missing_and_stale_cells_are_run_again() -> None:
    results = {cell.key: result(cell) for cell in CELLS[:2]}
    results[CELLS[0].key] = msgspec.structs.replace(results[CELLS[0].key], fingerprint="older")
    assert missing_cells(CELLS, results) == [CELLS[0], CELLS[2]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_cell_is_reported_and_the_others_are_done(tmp_path: Path, jobs: int) -> None:
    store = ResultStore(tmp_path / "r.jsonl")
    seen: list[RunProgress] = []
    failures = run_cells(CELLS, store.append, jobs=jobs, progress=seen.append, run=run_or_fail)
    assert [failure.key for failure in failures] == [CELLS[1].key]
    assert failures[0].error == "ValueError: too much"
    assert set(store.load()) == {CELLS[0].key, CELLS[2].key}
    assert [made.done for made in seen] == [1, 2, 3]
    assert sum(made.failed for made in seen) == 1


def run_or_fail(cell: Cell) -> CellResult:
    if cell.load == 1.0:
        raise ValueError("too much")
    return result(cell)


def test_a_killed_process_ends_the_run_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(BrokenProcessPool):
        run_cells(CELLS, ResultStore(tmp_path / "r.jsonl").append, jobs=2, progress=lambda _: None, run=die)


def die(_: Cell) -> CellResult:
    os._exit(1)


def test_an_interrupted_run_keeps_what_is_done_and_goes_on_there(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "r.jsonl")

    def interrupt(made: RunProgress) -> None:
        if made.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(CELLS, store.append, jobs=1, progress=interrupt, run=result)
    assert missing_cells(CELLS, store.load()) == [CELLS[2]]
