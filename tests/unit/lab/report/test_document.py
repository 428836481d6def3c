"""The document is made of results, and its words follow from them."""

from proserve_lab.report.cells import OURS, Cell, all_cells
from proserve_lab.report.document import batching_document
from report_results import GAINS, result, results


def test_leads_and_places_where_others_win_are_counted() -> None:
    assert "half a point ahead: **0**" in batching_document(results(GAINS))
    found = results(GAINS)
    worse = Cell(scenario="tight", workload="r1", load=2.0, policy=OURS)
    found[worse.key] = result(worse, 0.78)
    text = batching_document(found)
    assert "half a point ahead: **1**" in text
    assert "| tight r1 2 | 0.780 | `slide-batching` 0.800 | -2.0 |" in text


def test_verdicts_follow_the_figures() -> None:
    fcfs_equal = {**GAINS, "fcfs": 0.4, "priority": 0.6}
    text = batching_document(results(fcfs_equal))
    row = next(line for line in text.splitlines() if line.startswith("| strict priority starves"))
    assert "reproduced" in row
    row = next(line for line in text.splitlines() if line.startswith("| FCFS cannot tell"))
    assert "not reproduced" in row
    row = next(line for line in text.splitlines() if line.startswith("| requests in time over QoServe"))
    assert "not run" in row


def test_without_results_the_document_says_so() -> None:
    text = batching_document({})
    assert f"0 of {len(all_cells())} cells have a result" in text
    assert "No results yet." in text
    assert "| met |" not in text
