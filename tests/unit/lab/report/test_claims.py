"""Claims of the papers get the verdict that the figures support, and no relative gain over next to nothing."""

import msgspec

from proserve_lab.report.claim import Finding, Verdict
from proserve_lab.report.claims import CLAIMS, claims_table
from proserve_lab.report.proserve_claims import BASELINES
from proserve_lab.report.results import Results
from proserve_lab.simulation.result import ClassFigures
from report_results import results

BEST_BASELINE, PUBLISHED = "SlideBatching: gain over the best baseline", "the same with the published starvation rule"


def finding(what: str, gains: dict[str, float]) -> Finding | None:
    claim = next(claim for claim in CLAIMS if claim.what == what)
    return claim.check(Results(results(gains)))


def baselines(gain: float) -> dict[str, float]:
    return dict.fromkeys(BASELINES, gain)


def test_both_values_stand_beside_the_relative_gain() -> None:
    found = finding(BEST_BASELINE, {"slide-batching": 0.8, **baselines(0.6)})
    assert found is not None
    assert "0.800 against 0.600 in the mean, ahead in 18 of 18 overloads" in found.ours
    assert "up to +33% where a baseline has 0.5 or more" in found.ours
    assert found.verdict is Verdict.REPRODUCED


def test_a_gain_over_next_to_nothing_is_not_relative() -> None:
    found = finding(BEST_BASELINE, {"slide-batching": 0.8, **baselines(0.01)})
    assert found is not None
    assert "%" not in found.ours
    assert "no baseline has 0.5 anywhere" in found.ours
    assert found.verdict is Verdict.PARTLY


def test_more_than_claimed_everywhere_is_better() -> None:
    found = finding(BEST_BASELINE, {"slide-batching": 0.9, **baselines(0.5)})
    assert found is not None
    assert found.verdict is Verdict.BETTER


def test_the_published_rule_is_judged_by_itself() -> None:
    found = finding(PUBLISHED, {"slide-batching": 0.4, **baselines(0.6)})
    assert found is not None
    assert "authors' code: 0.400 against 0.600 in the mean of 6 overloads" in found.ours
    assert found.verdict is Verdict.NOT


def test_a_baseline_that_was_not_run_leaves_the_claim_open() -> None:
    gains = {"slide-batching": 0.8, **baselines(0.6)}
    del gains["sarathi"]
    assert finding(BEST_BASELINE, gains) is None


def test_capacity_is_read_between_loads() -> None:
    even = finding("capacity over Sarathi (FCFS)", {"qoserve": 1.0, "sarathi": 1.0})
    assert even is not None
    assert "azure-conv 1.0 times" in even.ours  # nine tenths in time at every load: the highest
    assert even.verdict is Verdict.NOT
    ahead = finding("capacity over Sarathi (FCFS)", {"qoserve": 1.0, "sarathi": 0.5})
    assert ahead is not None
    assert "azure-conv more than 4.0 times (load 2.00 against below 0.5)" in ahead.ours
    assert ahead.verdict is Verdict.REPRODUCED


def finding_with(what: str, changed: dict[str, dict[str, object]]) -> Finding | None:
    """`slide-batching` earns 0.8 everywhere, but for cells whose key has a part that is given other figures."""
    found = results({"slide-batching": 0.8})
    for part, figures in changed.items():
        found |= {key: msgspec.structs.replace(item, **figures) for key, item in found.items() if part in key}
    return next(claim for claim in CLAIMS if claim.what == what).check(Results(found))


def test_the_part_of_slide_batching_that_is_missed_most_decides() -> None:
    what = "of its parts SlideBatching misses the time budget most"
    parts: dict[str, dict[str, object]] = {"[alpha 0.01]": {"tdg_ratio": 0.6}, "[density only]": {"tdg_ratio": 0.7}}
    found = finding_with(what, {**parts, "[no time budget]": {"tdg_ratio": 0.5}})
    assert found == Finding(
        "nearly deadlines only 0.600, density only 0.700, no time budget 0.500; whole 0.800; mean of 6 overloads",
        Verdict.REPRODUCED,
    )
    later = finding_with(what, {**parts, "[no time budget]": {"tdg_ratio": 0.65}})
    assert later is not None
    assert later.verdict is Verdict.PARTLY


def test_a_heavier_weight_must_lift_its_class_and_leave_the_total() -> None:
    what = "a heavier weight lifts the heavy class, the total stays"

    def at_8(heavy: float, total: float, gain: float = 0.8) -> Verdict | None:
        classes = {"high": ClassFigures(requests=50, tdg_ratio=gain, slo_attainment=heavy)}
        found = finding_with(what, {"weight-8/": {"classes": classes, "slo_attainment": total}})
        return None if found is None else found.verdict

    assert at_8(0.9, 0.69) is Verdict.REPRODUCED  # of 0.8 and 0.7
    assert at_8(0.9, 0.5) is Verdict.PARTLY
    assert at_8(0.8, 0.7, gain=0.9) is Verdict.PARTLY
    assert at_8(0.8, 0.7) is Verdict.NOT


def test_every_claim_that_was_run_has_a_reason() -> None:
    rows = claims_table(Results(results({"slide-batching": 0.8, **baselines(0.6)}))).splitlines()[2:]
    assert len(rows) == len(CLAIMS)
    for row in rows:
        *_, verdict, why, _ = (cell.strip() for cell in row.split("|"))
        assert (verdict == Verdict.UNKNOWN.value) == (not why)
