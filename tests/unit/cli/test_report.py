"""`proserve report batching`: runs what is missing and writes the document."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from proserve_cli.main import app
from proserve_lab.report import run_cell, scenarios, workloads
from proserve_lab.report.cell_result import CellResult, ResultStore
from proserve_lab.report.workloads import WORKLOADS, Workload

ONLY = ("--only", "h100/azure-conv/1.2/fcfs", "--only", "h100/azure-conv/1.2/slide-batching", "--jobs", "1")


@pytest.fixture(autouse=True)
def short_traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(WORKLOADS, "azure-conv", Workload(trace="azure-conv-2023", rows=60))
    forget()
    yield
    forget()


def forget() -> None:
    for cached in (workloads.workload_rows, scenarios.saturation_of, scenarios.requests_of, run_cell._inputs_hash):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a test of their own and take seconds."""
    monkeypatch.setattr("proserve_lab.report.reports.draw", lambda *_: None)


def report(folder: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["report", "batching", "--folder", str(folder), *arguments])
    return result.exit_code, result.output


def test_two_cells_are_simulated_once_and_written_down(tmp_path: Path) -> None:
    code, output = report(tmp_path, *ONLY)
    assert code == 0
    assert "0 of 2 cells are up to date" in output
    found = ResultStore(tmp_path / "batching.jsonl").load()
    assert {item.requests for item in found.values()} == {60}
    assert all(0 < item.tdg_ratio <= 1 for item in found.values())
    assert "2 of " in (tmp_path / "batching.md").read_text(encoding="utf-8")
    first = (tmp_path / "batching.jsonl").read_bytes()
    code, output = report(tmp_path, *ONLY)
    assert "2 of 2 cells are up to date" in output
    assert (tmp_path / "batching.jsonl").read_bytes() == first


def test_cells_of_outdated_code_are_run_again(tmp_path: Path) -> None:
    report(tmp_path, *ONLY)
    store = ResultStore(tmp_path / "batching.jsonl")
    honest = store.load()
    key = "h100/azure-conv/1.2/fcfs"
    store.append(CellResult(key=key, fingerprint="older", rate=1.0, requests=1, tdg_ratio=0.123))
    _, output = report(tmp_path, *ONLY)
    assert "1 of 2 cells are up to date" in output
    assert store.load()[key].tdg_ratio == honest[key].tdg_ratio


def outdate(store: ResultStore, **figures: object) -> None:
    """Make all results those of other code, with other figures."""
    store.rewrite([msgspec.structs.replace(item, fingerprint="older", **figures) for item in store.load().values()])


def test_outdated_cells_are_carried_over_when_a_sample_comes_out_as_before(tmp_path: Path) -> None:
    loads = ("--only", "h100/azure-conv/*/fcfs", "--jobs", "1")
    report(tmp_path, *loads)
    store = ResultStore(tmp_path / "batching.jsonl")
    before = store.load()
    outdate(store)
    code, output = report(tmp_path, *loads, "--carry-over", "2")
    assert code == 0
    assert "2 of 6 outdated cells came out as before, the others are carried over" in output
    assert "6 of 6 cells are up to date" in output
    after = store.load()
    assert sorted(item.carried for item in after.values()) == [0, 0, 2, 2, 2, 2]
    assert {key: item.fingerprint for key, item in after.items()} == {
        key: item.fingerprint for key, item in before.items()
    }
    assert "4 of them were computed by an earlier version" in (tmp_path / "batching.md").read_text(encoding="utf-8")


def test_nothing_is_carried_over_when_a_figure_has_changed(tmp_path: Path) -> None:
    report(tmp_path, *ONLY)
    store = ResultStore(tmp_path / "batching.jsonl")
    outdate(store, steps=17)
    stored = store.load()
    code, output = report(tmp_path, *ONLY, "--carry-over", "1")
    assert code == 1
    assert "2 of 2 cells came out differently, nothing is carried over" in output
    assert "(was 17)" in output
    assert "h100/azure-conv/1.2/fcfs: steps" in output
    assert store.load() == stored


def test_carrying_over_without_running_is_wrong_usage(tmp_path: Path) -> None:
    code, output = report(tmp_path, "--no-run", "--carry-over", "2", *ONLY)
    assert code == 2
    assert "leave out --no-run" in output


def test_nothing_is_run_when_only_the_document_is_wanted(tmp_path: Path) -> None:
    code, output = report(tmp_path, "--no-run", *ONLY[:4])
    assert code == 0
    assert "0 of 2 cells are up to date" in output
    assert not (tmp_path / "batching.jsonl").exists()
    assert (tmp_path / "batching.md").exists()


def test_results_of_cells_that_the_report_no_longer_has_are_not_shown(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "batching.jsonl")
    store.append(CellResult(key="h100/m-large/1.2/fcfs", fingerprint="any", rate=1.0, requests=1, tdg_ratio=0.321))
    store.append(
        CellResult(key="h100/m-large/1.2/fcfs[dropped]", fingerprint="any", rate=1.0, requests=1, tdg_ratio=0.987)
    )
    assert report(tmp_path, "--no-run", *ONLY[:4])[0] == 0
    text = (tmp_path / "batching.md").read_text(encoding="utf-8")
    assert "0.321" in text
    assert "1 of" in text.split("cells have a result")[0]


def test_a_failing_cell_makes_the_command_fail_after_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no plan")

    monkeypatch.setattr("proserve_core.batching.fcfs.Fcfs.plan", broken)
    code, output = report(tmp_path, *ONLY)
    assert code == 1
    assert "h100/azure-conv/1.2/fcfs: RuntimeError: no plan" in output
    assert list(ResultStore(tmp_path / "batching.jsonl").load()) == ["h100/azure-conv/1.2/slide-batching"]


def test_globs_that_match_nothing_are_wrong_usage(tmp_path: Path) -> None:
    code, output = report(tmp_path, "--only", "h100/none/*")
    assert code == 2
    assert "--only: no cell matches h100/none/*; a cell is called h100/azure-conv/0.5/recoverable-gain" in output


def test_a_damaged_results_file_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "batching.jsonl").write_text("nonsense\n", encoding="utf-8")
    code, output = report(tmp_path, *ONLY)
    assert code == 2
    assert "batching.jsonl:1: not a result" in output
