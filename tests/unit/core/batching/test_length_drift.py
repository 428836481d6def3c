"""Outputs that do not end as foreseen are noticed soon, those that do hardly ever raise an alarm."""

import pickle

import numpy as np
import pytest

from proserve_core.batching.length_drift import FALSE_ALARM_OUTPUTS, OLDEST, LengthDrift
from proserve_core.batching.output_bins import Column


def output(drift: LengthDrift, age: float, *, band: int = 0) -> bool:
    """An output of the band that ends at this age. Whether there is an alarm."""
    drift.aged(np.array([band]), np.zeros(1), np.array([age]))
    return drift.ended(band, age)


def outputs_to_alarm(ages: Column) -> int:
    drift = LengthDrift(1)
    return next(number for number, age in enumerate(ages.tolist(), start=1) if output(drift, age))


def test_outputs_that_end_five_times_as_soon_are_noticed_after_thirty() -> None:
    # log(2e6) = 14.51; each brings log 2 - 0.2 = 0.493, so the 30th is the first to reach it.
    assert outputs_to_alarm(np.full(100, 0.2)) == 30


def test_outputs_that_do_not_end_are_noticed_while_they_run() -> None:
    # Each brings 0.5 for each unit of age up to 3: ten of them 15. The alarm comes with the next end of any band.
    drift = LengthDrift(2)
    ten = np.zeros(10, dtype=np.intp)
    drift.aged(ten, np.zeros(10), np.full(10, 2.8))
    assert not drift.ended(1, 1.0)
    drift.aged(ten, np.full(10, 2.8), np.full(10, 50.0))
    assert drift.ended(1, 1.0)


@pytest.mark.parametrize(("times", "outputs"), [(0.2, 29), (5.0, 18)])
def test_random_lengths_that_change_fivefold_are_noticed_as_soon_as_stated(times: float, outputs: int) -> None:
    generator = np.random.default_rng(1)
    delays = [outputs_to_alarm(times * generator.exponential(size=1000)) for _ in range(200)]
    assert np.mean(delays) == pytest.approx(outputs, rel=0.2)


@pytest.mark.parametrize(("off", "outputs"), [(0.9, 4_000), (1.0, 20_000), (1.1, 4_000)])
def test_lengths_as_foreseen_raise_no_alarm(off: float, outputs: int) -> None:
    # At most one in a million is stated if what is known is exact; 10% off either way make no great difference.
    drift = LengthDrift(1)
    ages = off * np.random.default_rng(2).exponential(size=outputs)
    assert not any(output(drift, age) for age in ages.tolist())


def test_false_alarms_are_as_rare_as_stated() -> None:
    # Wald's identity: the likelihood ratio of one output, either way, has mean 1; then alarms at 2N in either of two
    # sums are at most one in N outputs. Only ages below the oldest count with their end.
    ages = np.random.default_rng(3).exponential(size=1_000_000)
    for ratio in (2.0, 0.5):
        likelihood = np.exp((1 - ratio) * np.minimum(ages, OLDEST)) * np.where(ages < OLDEST, ratio, 1.0)
        assert likelihood.mean() == pytest.approx(1.0, abs=0.01)
    assert FALSE_ALARM_OUTPUTS == 1_000_000


def test_bands_are_judged_each_for_itself() -> None:
    # Half the outputs five times as short, half five times as long: on average nothing has changed.
    drift = LengthDrift(2)
    alarms = [output(drift, age, band=band) for _ in range(30) for band, age in ((0, 0.2), (1, 1.8))]
    assert [number for number, alarm in enumerate(alarms) if alarm] == [58]


def test_after_an_alarm_all_begins_anew() -> None:
    drift = LengthDrift(1)
    alarms = [number for number in range(1, 91) if output(drift, 0.2)]
    assert alarms == [30, 60, 90]


def test_it_keeps_two_sums_for_each_band_however_many_outputs_there_were() -> None:
    drift = LengthDrift(8)
    before = len(pickle.dumps(drift))
    for number in range(1000):
        output(drift, 1.0, band=number % 8)
    assert len(pickle.dumps(drift)) == before
