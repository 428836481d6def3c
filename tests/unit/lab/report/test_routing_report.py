"""The report on routing: its cells, one of them run, and the document made of stored results."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proserve_cli.main import app
from proserve_core.routing.registry import LATE_ROUTERS, ROUTERS
from proserve_lab.report import reports, routing_document, run_routing_cell
from proserve_lab.report.cell_result import CellResult, ResultStore
from proserve_lab.report.cells import OURS, Cell
from proserve_lab.report.routing_cells import (
    ENGINES,
    FLEETS,
    MAIN,
    ROWS,
    fleet_rate,
    latency_of,
    limits_of,
    routing_cells,
    workload_of,
)
from proserve_lab.report.routing_targets import targets_table
from proserve_lab.report.run_routing_cell import routing_fingerprint
from proserve_lab.report.scenarios import calibration_of, saturation_of
from proserve_lab.report.workloads import TRACES
from proserve_lab.shipped_traces import shipped_trace
from proserve_lab.trace import read_trace


@pytest.fixture
def few_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(ROWS, "azure-conv", 20)
    monkeypatch.setattr(reports, "draw", lambda *_: None)
    for cached in (workload_of, run_routing_cell._inputs):
        cached.cache_clear()
    yield
    for cached in (workload_of, run_routing_cell._inputs):
        cached.cache_clear()


def cell(router: str = "min-load", *, fleet: str = MAIN, engine: str = "fcfs", load: float = 1.2) -> Cell:
    return Cell(scenario=fleet, workload="azure-conv", load=load, policy=router, variant=engine)


def results(*found: CellResult) -> dict[str, CellResult]:
    return {each.key: each for each in found}


def stored(tdg_ratio: float, of: Cell) -> CellResult:
    return CellResult(key=of.key, fingerprint="f", rate=1.0, requests=1, tdg_ratio=tdg_ratio)


def test_every_cell_has_a_name_of_its_own() -> None:
    keys = [each.key for each in routing_cells()]
    assert len(set(keys)) == len(keys)


def test_every_dimension_has_cells() -> None:
    cells = routing_cells()
    assert {each.workload for each in cells if each.scenario == MAIN} == set(TRACES)
    assert {each.load for each in cells if each.scenario == MAIN} >= {0.8, 1.0, 1.2, 1.5}
    assert {each.policy for each in cells if each.scenario == MAIN} == {*ROUTERS, *LATE_ROUTERS}
    assert {len(FLEETS[each.scenario].gpus) for each in cells} >= {4, 16, 64}
    assert {FLEETS[each.scenario].gateways for each in cells} == {1, 2, 4}
    assert {FLEETS[each.scenario].staleness_s for each in cells} == {0.02, 0.1, 0.5}
    for fleet in FLEETS:
        assert {each.variant for each in cells if each.scenario == fleet} == set(ENGINES)


def test_another_cut_of_the_trace_has_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "azure-conv", 20)
    workload_of.cache_clear()
    first, later = (workload_of(fleet, "azure-conv", 1.3)[0] for fleet in (MAIN, "later"))
    workload_of.cache_clear()
    assert len(first) == len(later) == 80
    recorded = read_trace(shipped_trace("azure-conv-2023"), limit=1680)
    assert [request.prompt_tokens for request in later] == [row.prompt_tokens for row in recorded[1600:]]
    assert later[0].arrival_s == 0


def test_the_pooled_engine_holds_and_does_as_much_as_all_four_and_gets_their_requests() -> None:
    pooled, calibration = FLEETS["pooled"], calibration_of("h100")
    four, one = limits_of(FLEETS[MAIN], calibration), limits_of(pooled, calibration)
    assert (one.blocks, one.max_sequences, one.max_step_tokens) == (
        4 * four.blocks,
        4 * four.max_sequences,
        4 * four.max_step_tokens,
    )
    assert latency_of(pooled, 0, calibration.latency).prefill_s(1000) == pytest.approx(
        calibration.latency.prefill_s(1000) / 4
    )
    assert workload_of("pooled", "azure-conv", 1.2) == workload_of(MAIN, "azure-conv", 1.2)


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


def test_targets_are_judged_by_mean_or_worst_place_as_they_are_meant() -> None:
    by_key = results(
        stored(0.9, cell("late-gain")),
        stored(0.5, cell("min-load")),
        stored(0.7, cell("round-robin")),
        stored(0.8, cell("late-gain", load=1.5)),
        stored(0.5, cell("round-robin", load=1.5)),
        stored(0.895, cell("late-gain", fleet="gateways-2")),
        stored(0.95, cell("late-gain", engine=OURS)),
        stored(0.96, cell("slo-aware", engine=OURS)),
        stored(0.97, cell("late-gain", engine=OURS, load=1.5)),
        stored(0.90, cell("min-load", engine=OURS, load=1.5)),
    )
    text = targets_table(by_key)
    assert "any router that decides at once | +30.0 | +25.0 | all traces and loads, round-robin | 2 | no |" in text
    assert "above the best other router | -0.5 | -1.0 | worst: azure-conv 1.2, slo-aware | 2 | no |" in text
    assert "above min-load, all traces and loads | +1.0 | +7.0 | mean | 1 | yes |" in text
    assert "two gateways, engines fcfs: beside four H100 | -1.0 | -0.5 | worst: azure-conv | 1 | yes |" in text
    assert "mooncake: late-gain above min-load | +9.0 | - | - | 0 | - |" in text


def test_every_cell_is_listed_and_those_without_a_result_say_so() -> None:
    text = routing_document.routing_document(results(stored(0.9, cell("late-gain"))))
    listed = text.split("## Every cell")[1]
    assert listed.count("`late-gain`") == sum(each.policy == "late-gain" for each in routing_cells())
    assert "| h100x4 azure-conv 1.2 | `late-gain` | fcfs | 1 | 0.900 |" in listed
    assert "| h100x4 azure-conv 1.2 | `min-load` | fcfs | - | - |" in listed


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
