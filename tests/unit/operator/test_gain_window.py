"""Gain of the last minutes over all gateways, and how a status shows it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.gain import GainTotals, LossCause
from proserve_core.gain_report import GainReport
from proserve_operator.figures import gain_fields, pool_figures, subject_figures
from proserve_operator.gain_window import GainWindow


def totals(requests: int, *, earned: float | None = None, lost: float = 0.0) -> GainTotals:
    """So many requests worth 10 each."""
    earnable = requests * 10.0
    return GainTotals(
        requests=requests,
        slo_attained=requests,
        tokens=requests,
        earned=earnable - lost if earned is None else earned,
        earnable=earnable,
        lost={LossCause.SHED: lost} if lost else {},
    )


def report(instance: str, sums: GainTotals) -> GainReport:
    return GainReport(
        instance=instance, classes={"high": sums}, tenants={"alice": sums}, pools={"tiny": {"high": sums}}, engines=[]
    )


def requests(window: GainWindow, what: str = "class", name: str = "high") -> int:
    return window.totals((what, name)).requests


def test_what_was_added_between_reports_counts_for_all_gateways_together() -> None:
    window = GainWindow()
    window.take([report("a", totals(5)), report("b", totals(100))], now_s=0)
    assert requests(window) == 0
    window.take([report("a", totals(8)), report("b", totals(101))], now_s=15)
    assert [requests(window, *each) for each in (("class", "high"), ("tenant", "alice"), ("pool", "tiny"))] == [4, 4, 4]
    assert window.classes_of("tiny") == ["high"]


def test_gateway_that_restarts_begins_anew() -> None:
    window = GainWindow()
    window.take([report("a", totals(50))], now_s=0)
    window.take([report("a2", totals(3))], now_s=15)
    window.take([report("a2", totals(4))], now_s=30)
    assert requests(window) == 1


def test_gateway_that_is_silent_for_a_while_loses_nothing() -> None:
    window = GainWindow()
    window.take([report("a", totals(0))], now_s=0)
    window.take([report("a", totals(10))], now_s=15)
    window.take([], now_s=30)
    window.take([report("a", totals(30))], now_s=45)
    window.take([report("a", totals(40))], now_s=60)
    assert requests(window) == 40


def test_gateway_that_was_silent_for_longer_than_the_window_begins_anew() -> None:
    window = GainWindow()
    window.take([report("a", totals(0))], now_s=0)
    window.take([], now_s=30)
    window.take([report("a", totals(1000))], now_s=601)
    assert requests(window) == 0


def test_old_minutes_are_forgotten() -> None:
    window = GainWindow()
    window.take([report("a", totals(0))], now_s=0)
    window.take([report("a", totals(5))], now_s=30)
    window.take([report("a", totals(6))], now_s=500)
    assert requests(window) == 6
    window.take([report("a", totals(6))], now_s=650)
    assert requests(window) == 1
    assert window.recent(("class", "high"), buckets=1).requests == 0


def test_subjects_that_no_gateway_tells_of_any_more_are_forgotten() -> None:
    window = GainWindow()
    window.take([report("a", totals(1))], now_s=0)
    window.take([report("a", totals(3))], now_s=15)
    assert window.came(("tenant", "alice")) == 2
    window.take([msgspec.structs.replace(report("a", totals(3)), tenants={})], now_s=30)
    assert (window.came(("tenant", "alice")), window.came(("class", "high"))) == (0, 2)


def test_nobody_reports() -> None:
    window, seen = GainWindow(), []
    assert subject_figures(window, "class", "high") == {}
    for reports in ([], [report("a", totals(1))], []):
        window.take(reports, now_s=0)
        seen.append(window.reporting)
    assert seen == [False, True, False]


@given(steps=st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_nothing_is_counted_twice_or_lost(steps: list[int]) -> None:
    window, total = GainWindow(), 7
    window.take([report("a", totals(total))], now_s=0)
    for number, step in enumerate(steps, 1):
        total += step
        window.take([report("a", totals(total))], now_s=number * 10.0)
    assert requests(window) == sum(steps)


def test_figures_are_rounded_shares() -> None:
    assert gain_fields(totals(3, lost=1.0)) == {
        "window": "10m",
        "requests": 3,
        "ratio": "96.7%",
        "sloAttainment": "100.0%",
        "lost": [{"cause": "shed", "share": "3.3%"}],
    }
    assert gain_fields(GainTotals()) == {"window": "10m", "requests": 0}


def test_pool_has_figures_for_each_class_that_it_served() -> None:
    window = GainWindow()
    window.take([report("a", totals(0))], now_s=0)
    window.take([report("a", totals(2))], now_s=15)
    figures = pool_figures(window, "tiny")
    assert figures["gain"]["requests"] == 2
    assert [(each["className"], each["requests"]) for each in figures["classes"]] == [("high", 2)]
    assert "classes" not in pool_figures(window, "other")


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.0, 1.1])
def test_shares_stay_within_bounds_whatever_rounding_did(share: float) -> None:
    shown = gain_fields(totals(1, earned=share * 10))["ratio"]
    assert 0 <= float(shown.rstrip("%")) <= 100
