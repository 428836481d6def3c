"""Which cells the report has, and what each is run with."""

from collections import Counter
from itertools import pairwise

import pytest

from proserve_core.batching.registry import POLICIES, make_policy
from proserve_lab.report.ablations import ABLATIONS, ablated, told
from proserve_lab.report.bound_shares import CLAIRVOYANT, LENGTHS_UNKNOWN
from proserve_lab.report.cells import (
    BOUND,
    EXTRA,
    GRID,
    OURS,
    SLIDE_ONLY,
    STUDY_ONLY,
    Cell,
    all_cells,
    contender_cells,
    matching,
    policy_names,
)
from proserve_lab.report.results import Place, places
from proserve_lab.report.scenarios import IDLE_S, SCENARIOS, limits_of, requests_of, saturation_of
from proserve_lab.report.workloads import LONGEST_OUTPUT, WORKLOADS, workload_rows


def test_every_policy_of_the_registry_is_in_every_place() -> None:
    cells = [cell for cell in all_cells() if not cell.variant and cell.policy != BOUND]
    run = Counter(Place(cell.scenario, cell.workload, cell.load) for cell in cells)
    assert set(policy_names()) == set(POLICIES)
    assert {run.pop(spot) for spot in places((*STUDY_ONLY, *SLIDE_ONLY))} == {1}
    assert set(run) == set(places((*GRID, *EXTRA)))
    assert set(run.values()) == {len(POLICIES)}


def test_every_share_of_a_bound_that_is_aimed_at_can_be_computed() -> None:
    keys = {cell.key for cell in all_cells()}
    for aim in (CLAIRVOYANT, LENGTHS_UNKNOWN):
        for spot in aim.places():
            cell = Cell(
                scenario=spot.scenario, workload=spot.workload, load=spot.load, policy=BOUND, variant=aim.variant
            )
            assert cell.key in keys


def test_keys_name_cells_that_can_be_made() -> None:
    cells = all_cells()
    assert len({cell.key for cell in cells}) == len(cells)
    assert {cell.scenario for cell in cells} == set(SCENARIOS)
    assert {cell.workload for cell in cells} <= set(WORKLOADS)
    for cell in cells:
        if cell.policy != BOUND:
            make_policy(cell.policy, dict(cell.options))


def test_our_policy_under_the_main_circumstances_is_run_first() -> None:
    assert (all_cells()[0].policy, all_cells()[0].scenario) == (OURS, "h100")


def test_globs_choose_cells() -> None:
    cells = list(contender_cells(()))
    assert matching(cells, []) == cells
    chosen = matching(all_cells(), ["h100/azure-conv/1.2/qoserve", "burst/*/2/fcfs"])
    assert [cell.key for cell in chosen] == [
        "h100/azure-conv/1.2/qoserve",
        "burst/azure-conv/2/fcfs",
        "burst/m-large/2/fcfs",
    ]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_has_requests_in_order_that_its_engine_can_hold(scenario: str) -> None:
    workload = "m-large" if not scenario.startswith("long") else "r1 x10"
    requests = requests_of(scenario, workload, 2.0)
    arrivals = [request.arrival_s for request in requests]
    assert arrivals == sorted(arrivals)
    limits = limits_of(scenario)
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    assert longest <= limits.blocks * limits.block_size


def test_load_is_a_multiple_of_the_saturation_rate() -> None:
    requests = requests_of("h100", "azure-conv", 2.0)
    rate = (len(requests) - 1) / requests[-1].arrival_s
    assert rate == pytest.approx(2 * saturation_of("h100", "azure-conv"))


def test_lengthened_outputs_end_somewhere() -> None:
    assert max(row.output_tokens for row in workload_rows("r1 x10")) == LONGEST_OUTPUT
    assert max(row.output_tokens for row in workload_rows("r1")) > LONGEST_OUTPUT / 10


def test_the_burst_comes_after_idleness() -> None:
    arrivals = [request.arrival_s for request in requests_of("burst", "azure-conv", 3.0)]
    gaps = [after - before for before, after in pairwise(arrivals)]
    assert sum(gap >= IDLE_S for gap in gaps) == 1


def test_the_biggest_client_is_heavy_and_nobody_else() -> None:
    requests = requests_of("one-client", "m-large", 1.2)
    heavy = {request.clues.client for request in requests if request.terms.weight == 2}
    light = {request.clues.client for request in requests if request.terms.weight == 1}
    assert len(heavy) == 1
    assert not heavy & light


def test_a_tenth_of_the_requests_is_heavy() -> None:
    requests = requests_of("mix-10-90", "azure-conv", 1.2)
    assert sum(request.terms.weight == 2 for request in requests) / len(requests) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("variant", ABLATIONS)
def test_an_ablation_replaces_what_there_is_and_puts_it_back(variant: str) -> None:
    ablation = ABLATIONS[variant]
    before = {name: getattr(ablation.target, name) for name in ablation.parts}
    with ablated(variant):
        assert all(getattr(ablation.target, name) is not before[name] for name in before)
    assert {name: getattr(ablation.target, name) for name in before} == before


def test_a_policy_that_knows_the_lengths_is_told_them_as_limits() -> None:
    requests = requests_of("h100", "m-large", 1.2)[:5]
    assert [item.clues.max_tokens for item in told("lengths known", requests)] == [
        request.output_tokens for request in requests
    ]
    assert all(not item.clues.client for item in told("lengths by prompt length only", requests))
