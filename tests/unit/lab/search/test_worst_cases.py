"""The worst workloads that the search has found: the regret on them may shrink, never grow.

Each file in tests/data/adversary has the specification, the best other policy, the regret and why. When a policy gets
better, write its new regret into the file; below half a point it is reached and the case stays as it is.
"""

from pathlib import Path

import pytest

from proserve_lab.search.cases import read_case
from proserve_lab.search.regret import regret

FILES = sorted((Path(__file__).resolve().parents[3] / "data" / "adversary").glob("*.json"))
GOAL = 0.005


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_regret_is_within_half_a_point_or_what_it_was(path: Path) -> None:
    case = read_case(path)
    found = regret(case.spec, ours=case.policy, seeds=case.seeds, others=(case.best,))
    assert found is not None
    assert found.mean <= max(GOAL, case.regret + 0.002), f"{path.name}: {found.mean:+.4f} against {case.best}"


def test_there_are_cases() -> None:
    assert FILES
