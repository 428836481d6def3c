"""The scripted burst by which headroom is measured."""

import pytest

from proserve_core.gain import RequestAccount
from proserve_lab.bench.headroom_burst import (
    BURST_S,
    HEAVY,
    LIGHT,
    SPAN_S,
    BurstFigures,
    burst_requests,
    figures,
    missed,
    report,
)
from proserve_lab.simulation.run import Outcome
from proserve_lab.simulation.workload import SimulatedRequest
from proserve_lab.trace import TraceRow

ROWS = [TraceRow(arrival_s=0.0, prompt_tokens=100, output_tokens=10)]


def outcome(request: SimulatedRequest, *, on_time: bool) -> Outcome:
    account = RequestAccount(request.terms, request.arrival_s)
    account.tokens_at(request.arrival_s + (0.5 if on_time else 50.0))
    return Outcome(request=request, account=account, emitted_s=[])


def test_load_is_as_the_scenario_says() -> None:
    requests = burst_requests(ROWS, saturation=200.0, seed=1)
    begin_s, end_s = BURST_S

    def load(name: str, from_s: float, until_s: float) -> float:
        found = [r for r in requests if r.terms.priority_class == name and from_s <= r.arrival_s < until_s]
        return len(found) / (until_s - from_s) / 200.0

    assert load(LIGHT, 0.0, SPAN_S) == pytest.approx(1.2, rel=0.05)
    assert load(HEAVY, begin_s, end_s) == pytest.approx(0.7, rel=0.1)
    assert load(HEAVY, end_s, SPAN_S) == pytest.approx(0.05, rel=0.3)
    assert [r.arrival_s for r in requests] == sorted(r.arrival_s for r in requests)


def test_recovered_is_when_every_half_second_is_well() -> None:
    requests = burst_requests(ROWS, saturation=50.0, seed=1)
    begin_s, _ = BURST_S
    outcomes = [
        outcome(r, on_time=not (r.terms.priority_class == HEAVY and begin_s <= r.arrival_s < begin_s + 2.2))
        for r in requests
    ]
    found = figures(outcomes, mode="Entitlement")
    assert found.recovered_s == 2.5
    assert found.light == found.light_in_burst == 1.0
    assert 0.8 < found.heavy < 0.9


def test_targets_that_are_missed_are_named() -> None:
    without = BurstFigures(mode="", heavy=0.97, light=0.8, light_in_burst=0.3, total=0.85, recovered_s=9.0)
    good = BurstFigures(mode="Entitlement", heavy=0.995, light=0.74, light_in_burst=0.1, total=0.82, recovered_s=0.5)
    bad = BurstFigures(mode="Entitlement", heavy=0.98, light=0.72, light_in_burst=0.1, total=0.8, recovered_s=2.0)
    assert missed(without, good) == []
    assert missed(without, bad) == ["heavy class within its headroom", "recovery", "light class", "total"]
    assert "heavy class in the burst, within its headroom     0.9950  >= 0.99" in report(without, good)
