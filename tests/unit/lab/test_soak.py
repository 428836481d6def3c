"""What the soak says of its samples; its figures are no tests."""

import pytest

from proserve_lab.bench.soak import SoakResult, report


def result(growth_mb_per_minute: float, *, failures: dict[str, int] | None = None) -> SoakResult:
    """An hour, of which the first minutes fill caches."""
    minutes = range(60)
    return SoakResult(
        seconds=3600,
        requests={"stream": 100},
        failures=failures or {},
        sample_s=[60.0 * minute for minute in minutes],
        resident_mb=[90 + min(minute, 5) * 3 + growth_mb_per_minute * minute for minute in minutes],
        descriptors=[30 + minute % 2 for minute in minutes],
    )


def test_memory_that_settles_is_flat() -> None:
    flat = result(0.0)
    assert flat.growth_mb_per_h == pytest.approx(0.0, abs=1e-6)
    assert "(met)" in report(flat)[1]


def test_a_leak_is_told_per_hour() -> None:
    leaking = result(0.5)
    assert leaking.growth_mb_per_h == pytest.approx(30.0)
    assert "+30.0 MB per hour" in report(leaking)[1]
    assert "(missed)" in report(leaking)[1]


def test_answers_that_were_not_right_are_named() -> None:
    assert report(result(0.0, failures={"stream: 503": 2}))[0].endswith("be: 2 stream: 503")
