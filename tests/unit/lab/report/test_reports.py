"""What is true of every report."""

import re
from pathlib import Path

import pytest

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.reports import BATCHING, BLOCKS, ROUTING, Report
from report_results import GAINS, results


def found(report: Report) -> dict[str, CellResult]:
    """Some results, those that a picture is made of among them."""
    if report is BATCHING:
        return {key: result for key, result in results(GAINS).items() if key.startswith(("h100", "burst"))}
    return {
        cell.key: CellResult(key=cell.key, fingerprint="f", rate=1.0, requests=1, tdg_ratio=0.9)
        for cell in report.cells()[:1]
    }


@pytest.mark.parametrize("report", [BATCHING, BLOCKS, ROUTING], ids=lambda report: report.name)
def test_the_document_points_to_its_pictures_and_the_same_figures_give_the_same_bytes(
    report: Report, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        report.write(found(report), folder)
    first, second = ({path.name: path.read_bytes() for path in folder.rglob("*.*")} for folder in folders)
    assert first == second
    text = first.pop(f"{report.name}.md").decode()
    linked = re.findall(rf"\({report.name}/([\w-]+\.svg)\)", text)
    assert sorted(linked) == sorted(first) != []
