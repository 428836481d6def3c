"""Retry-After: how long until the queue of a class has drained, at the rate at which it drained lately."""

import pytest

from proserve_core.admission.drain import LONGEST_S, DrainForecast


def drained(*, per_s: float, over_s: float, priority_class: str = "low") -> DrainForecast:
    forecast = DrainForecast(0.0)
    for number in range(round(per_s * over_s)):
        forecast.left(priority_class, number / per_s)
    return forecast


def test_queue_that_drains_steadily_is_forecast() -> None:
    forecast = drained(per_s=5, over_s=60)
    assert forecast.drain_s("low", 50, 60.0) == pytest.approx(10, abs=1)


def test_forecast_is_whole_seconds_and_at_least_one() -> None:
    forecast = drained(per_s=50, over_s=60)
    assert forecast.drain_s("low", 1, 60.0) == 1.0
    assert forecast.drain_s("low", 333, 60.0) == round(forecast.drain_s("low", 333, 60.0))


def test_class_that_others_pass_is_told_to_wait_longer() -> None:
    forecast = drained(per_s=5, over_s=60, priority_class="high")
    assert forecast.drain_s("low", 50, 60.0) > 10 * forecast.drain_s("high", 50, 60.0)


def test_rate_follows_what_happened_lately() -> None:
    forecast = drained(per_s=5, over_s=60)
    assert forecast.drain_s("low", 50, 90.0) > 2 * forecast.drain_s("low", 50, 60.0)


def test_forecast_is_bounded() -> None:
    assert DrainForecast(0.0).drain_s("low", 10**6, 100.0) == LONGEST_S
    assert DrainForecast(0.0).drain_s("low", 0, 0.0) == 1.0
