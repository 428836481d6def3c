"""The benchmark of routing decisions runs any policy and compares with the target of its fleet."""

import itertools
from typing import Any

import pytest

from proserve_lab.bench.route_time import LOADS, TARGETS_US, RouteTime, measure, report


@pytest.mark.parametrize("router", ["late-gain", "min-load"])
@pytest.mark.parametrize("load", LOADS)
def test_decisions_are_timed_one_by_one(router: str, load: str) -> None:
    """Each look at this clock is a microsecond later than the last."""
    ticks = itertools.count()
    result = measure(router=router, engines=64, load=load, decisions=20, clock=lambda: next(ticks) * 1e-6)
    assert 0 < result.p50_us <= result.p99_us <= 1.001
    assert result.met


def test_report_shows_each_p99_beside_its_target() -> None:
    case: dict[str, Any] = {"router": "min-load", "engines": 64, "load": "room", "target_us": TARGETS_US[64]}
    met, missed = (RouteTime(p10_us=40.0, p50_us=50.0, p99_us=p99_us, **case) for p99_us in (200.0, 201.0))
    assert report([met, missed]).splitlines()[1:] == [
        "min-load                64  room       40       50      200   <= 200, met",
        "min-load                64  room       40       50      201   <= 200, missed",
    ]
