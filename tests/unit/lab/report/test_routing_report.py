"""The report on routing: its cells, one of them run, and the document made of stored results."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proserve_cli.main import app
from proserve_lab.report import routing_document, routing_pictures, run_routing_cell
from proserve_lab.report.cell_result import CellResult, ResultStore
from proserve_lab.report.cells import Cell
from proserve_lab.report.routing_cells import FLEETS, MAIN, ROWS, fleet_rate, latency_of, routing_cells, workload_of
from proserve_lab.report.run_routing_cell import routing_fingerprint
from proserve_lab.report.scenarios import calibration_of, saturation_of
from proserve_lab.shipped_traces import shipped_trace
from proserve_lab.trace import read_trace


@pytest.fixture
def few_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(ROWS, "azure-conv", 20)
    monkeypatch.setattr(routing_document, "draw_routing_pictures", lambda *_: None)
    for cached in (workload_of, run_routing_cell._inputs):
        cached.cache_clear()
    yield
    for cached in (workload_of, run_routing_cell._inputs):
        cached.cache_clear()


def cell(router: str = "min-load", *, fleet: str = MAIN, engine: str = "fcfs", load: float = 1.2) -> Cell:
    return Cell(scenario=fleet, workload="azure-conv", load=load, policy=router, variant=engine)


def stored(tdg_ratio: float, of: Cell) -> CellResult:
    return CellResult(key=of.key, fingerprint="f", rate=1.0, requests=1, tdg_ratio=tdg_ratio)


def test_every_cell_has_a_name_of_its_own() -> None:
    keys = [each.key for each in routing_cells()]
    assert len(set(keys)) == len(keys)


def test_load_is_told_by_what_the_engines_could_serve_alone() -> None:
    h100, a100 = saturation_of("h100", "azure-conv"), saturation_of("a100", "azure-conv")
    assert fleet_rate(MAIN, "azure-conv", 0.5) == pytest.approx(2 * h100)
    assert fleet_rate("mixed", "azure-conv", 1.0) == pytest.approx(2 * h100 + 2 * a100)
    assert fleet_rate("one-slow", "azure-conv", 1.0) == pytest.approx(3.5 * h100)


def test_one_engine_is_slow_and_says_so() -> None:
    calibrated = calibration_of("h100").latency
    slow, other = (latency_of(FLEETS["one-slow"], number, calibrated) for number in (0, 1))
    assert slow.prefill_s(1000) == pytest.approx(2 * calibrated.prefill_s(1000))
    assert other == calibrated


def test_a_trace_that_is_too_short_is_repeated_with_prefixes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "mooncake-conversation", 3100)
    requests, prefixes = workload_of(MAIN, "mooncake-conversation", 1.1)
    arrivals = [request.arrival_s for request in requests]
    assert len(requests) == 12_400
    assert arrivals == sorted(arrivals)
    recorded = len(read_trace(shipped_trace("mooncake-conversation")))
    first, again = requests[0], requests[recorded]
    assert (first.prompt_tokens, first.output_tokens) == (again.prompt_tokens, again.output_tokens)
    assert set(prefixes[first.id]).isdisjoint(prefixes[again.id])


@pytest.mark.usefixtures("few_requests")
def test_fleet_router_and_engines_are_part_of_the_fingerprint() -> None:
    cells = [cell(), cell("late-gain"), cell(engine="recoverable-gain"), *(cell(fleet=fleet) for fleet in FLEETS)]
    # The first one is there twice.
    assert len({routing_fingerprint(each) for each in cells}) == len(cells) - 1


def test_targets_are_judged_by_their_worst_place() -> None:
    by_key = {
        found.key: found
        for found in (
            stored(0.9, cell("late-gain")),
            stored(0.5, cell("min-load")),
            stored(0.7, cell("round-robin")),
            stored(0.895, cell("late-gain", fleet="gateways-2")),
        )
    }
    text = routing_document.routing_document(by_key)
    assert "best router that decides at once | +30.0 | +20.0 | azure-conv 1.2 | 1 | no |" in text
    assert "two gateways, engines fcfs: beside one | -1.0 | -0.5 | azure-conv | 1 | yes |" in text


@pytest.mark.usefixtures("few_requests")
def test_a_cell_is_run_once_and_written_down(tmp_path: Path) -> None:
    chosen = cell(fleet="gateways-2")
    pattern = chosen.key.replace("[", "[[]")
    command = ["report", "routing", "--folder", str(tmp_path), "--jobs", "1", "--only", pattern]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = ResultStore(tmp_path / "routing.jsonl").load()[chosen.key]
    assert found.requests == 80
    assert f"1 of {len(routing_cells())} cells have a result" in (tmp_path / "routing.md").read_text(encoding="utf-8")
    assert "1 of 1 cells are up to date" in CliRunner().invoke(app, command).output


def test_pictures_are_drawn_of_whatever_there_is(tmp_path: Path) -> None:
    found = stored(0.9, cell())
    routing_pictures.draw_routing_pictures({found.key: found}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fcfs.svg", "recoverable-gain.svg"]
