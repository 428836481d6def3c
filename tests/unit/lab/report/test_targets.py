"""Verdicts on targets follow from results, and nothing is met that was not run."""

import pytest

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import BOUND, GRID, OURS, Cell, policy_names
from proserve_lab.report.floors import floor_places, floors_table
from proserve_lab.report.overload_sums import lead, sums_table
from proserve_lab.report.prior_study import study_figures
from proserve_lab.report.results import Place, Results, places
from proserve_lab.report.targets import State, Target, all_targets
from report_results import result, results

EVERYBODY = {**dict.fromkeys(policy_names(), 0.5), OURS: 0.999, BOUND: 1.0}
FLOOR, BEHIND = "never below the prototype of our prior study", "never behind the best other policy of a place"
OVER_OTHERS = "gain over every other policy in overload, sums on H100"


def target(found: dict[str, CellResult], what: str) -> Target:
    return next(item for item in all_targets(Results(found)) if item.what == what)


def put(found: dict[str, CellResult], spot: Place, policy: str, gain: float) -> None:
    cell = Cell(scenario=spot.scenario, workload=spot.workload, load=spot.load, policy=policy)
    found[cell.key] = result(cell, gain)


def test_without_results_nothing_is_called_met() -> None:
    assert {item.state for item in all_targets(Results({}))} == {State.NOT_RUN}


def test_everything_run_and_held_is_met() -> None:
    states = {item.what: item.state for item in all_targets(Results(results(EVERYBODY)))}
    shapes = "the papers' shapes are reproduced (last section)"
    assert states.pop(shapes) is State.MISSED  # equal gains have no shape
    assert set(states.values()) == {State.MET}


def test_a_part_of_the_places_leaves_a_target_open() -> None:
    found = results(EVERYBODY)
    del found["wp10/r1/2/recoverable-gain"]
    assert target(found, FLOOR).state is State.OPEN
    assert target(found, BEHIND).state is State.OPEN


def test_a_place_where_somebody_has_not_been_run_does_not_count() -> None:
    found = results(EVERYBODY)
    del found["tight/r1/2/fcfs"]
    assert target(found, BEHIND).state is State.OPEN
    assert target(found, OVER_OTHERS).state is State.OPEN


def test_one_place_below_the_floor_is_a_miss_and_is_named() -> None:
    found = results(EVERYBODY)
    put(found, Place("h100", "azure-code", 1.2), OURS, 0.727)
    floor = target(found, FLOOR)
    assert floor.state is State.MISSED
    assert "h100 azure-code 1.2 -0.6" in floor.here
    assert "0.733 / 0.727 (-0.60) **below**" in floors_table(Results(found))


def test_half_a_point_below_the_floor_is_held() -> None:
    found = results(EVERYBODY)
    put(found, Place("h100", "azure-code", 1.2), OURS, 0.729)
    assert target(found, FLOOR).state is State.MET


def test_another_policy_ahead_is_a_miss() -> None:
    found = results(EVERYBODY)
    put(found, Place("noise", "m-large", 2.0), OURS, 0.49)
    behind = target(found, BEHIND)
    assert behind.state is State.MISSED
    assert "noise m-large 2 -1.0" in behind.here


def test_an_aim_beyond_the_bound_is_called_impossible() -> None:
    found = results({**EVERYBODY, OURS: 0.9, "slide-batching": 0.8, "sliding-serve": 0.7, BOUND: 0.95})
    over = lead(Results(found), "h100", "slide-batching")
    assert over.value == pytest.approx(0.9 / 0.8 - 1)
    assert over.most == pytest.approx(0.95 / 0.8 - 1)
    assert not over.possible
    text = sums_table(Results(found))
    assert "| `slide-batching` | +12% (+19%) impossible |" in text
    assert "| `sliding-serve` | +29% (+36%) missed |" in text
    assert "beyond the bound" in target(found, OVER_OTHERS).here


def test_slide_batching_is_also_compared_with_its_published_starvation_rule() -> None:
    found = results(EVERYBODY)
    spot = Place("h100", "azure-conv", 1.2)
    cell = Cell(
        scenario=spot.scenario,
        workload=spot.workload,
        load=spot.load,
        policy="slide-batching",
        variant="starvation: late by a TTFT",
    )
    few = {key: item for key, item in found.items() if "[" not in key} | {cell.key: result(cell, 0.3)}
    assert "| authors' code | 0.300 | 0.999 | +233% | 1 |" in sums_table(Results(few))


def test_fewer_sequences_share_the_bound_of_more() -> None:
    found = Results(results(EVERYBODY))
    assert found.bound(Place("h100-256", "r1", 2.0)) == found.bound(Place("h100", "r1", 2.0)) == 1.0


def test_the_study_has_a_figure_for_every_place_of_its_groups() -> None:
    groups = [item for item in GRID if item.scenario != "h100-256"]
    assert all(study_figures(spot) is not None for spot in places(groups))
    assert study_figures(Place("h100-256", "azure-code", 2.0)) == study_figures(Place("h100", "azure-code", 2.0))
    assert study_figures(Place("noise", "azure-conv", 2.0)) is None
    assert len(floor_places()) == 90
