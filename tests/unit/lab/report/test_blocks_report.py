"""The report on KV blocks: its cells, one of them run, and the document made of stored results."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proserve_cli.main import app
from proserve_lab.report import block_cells, block_document, reports
from proserve_lab.report.block_cells import FULL, RECOMPUTE, ROWS, kv_host_of, short_blocks
from proserve_lab.report.cell_result import CellResult, ResultStore
from proserve_lab.report.cells import Cell
from proserve_lab.report.run_block_cell import block_fingerprint


@pytest.fixture(autouse=True)
def short_traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(ROWS, "azure-conv", 60)
    short_blocks.cache_clear()
    yield
    short_blocks.cache_clear()


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "draw", lambda *_: None)


def cell(variant: str, *, load: float = 1.2) -> Cell:
    return Cell(scenario="h100", workload="azure-conv", load=load, policy="slide-batching", variant=variant)


def stored(variant: str, tdg_ratio: float) -> CellResult:
    return CellResult(key=cell(variant).key, fingerprint="f", rate=1.0, requests=1, tdg_ratio=tdg_ratio)


def test_every_cell_has_a_name_of_its_own() -> None:
    keys = [each.key for each in block_cells.block_cells()]
    assert len(set(keys)) == len(keys)


def test_host_memory_follows_the_device() -> None:
    host = kv_host_of(cell("host 0.25x"))
    assert host is not None
    assert host.settings.host_blocks(block_bytes=2**21) == short_blocks("h100", "azure-conv") // 4
    assert kv_host_of(cell(RECOMPUTE)) is None


def test_what_is_switched_on_is_part_of_the_fingerprint() -> None:
    prints = {block_fingerprint(cell(variant)) for variant in block_cells.VARIANTS}
    assert len(prints) == len(block_cells.VARIANTS)


def test_missed_gain_is_told_relative_to_all_parts() -> None:
    by_key = {found.key: found for found in (stored(FULL, 0.9), stored(RECOMPUTE, 0.7))}
    assert block_document.missed_ratio(by_key, cell(RECOMPUTE)) == pytest.approx(3.0)
    assert block_document.missed_ratio(by_key, cell("unlimited")) is None


def test_a_ratio_of_nearly_nothing_is_no_figure() -> None:
    by_key = {found.key: found for found in (stored(FULL, 0.9999), stored(RECOMPUTE, 0.999))}
    assert block_document.missed_ratio(by_key, cell(RECOMPUTE)) is None


def test_a_cell_is_run_once_and_written_down(tmp_path: Path) -> None:
    command = [
        "report",
        "blocks",
        "--folder",
        str(tmp_path),
        "--jobs",
        "1",
        "--only",
        cell(FULL).key.replace("[", "[[]"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = ResultStore(tmp_path / "blocks.jsonl").load()[cell(FULL).key]
    assert found.kv is not None
    assert found.requests == 60
    written = (tmp_path / "blocks.md").read_text(encoding="utf-8")
    assert f"1 of {len(block_cells.block_cells())} cells have a result" in written
    assert "1 of 1 cells are up to date" in CliRunner().invoke(app, command).output
