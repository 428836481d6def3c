"""How likely preemption is: against a simulated walk, and in the right direction."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.blocks import BlockDemand, DemandRate, RiskLevel, chance_within, preemption_probability

cushions = st.floats(0, 1e5)
horizons = st.floats(0, 1e3)
demands = st.builds(DemandRate, drift=st.floats(-1e3, 1e3), variance=st.floats(0, 1e6))


@pytest.mark.parametrize(
    ("drift", "variance", "cushion", "horizon_s"),
    [(2.0, 100.0, 50.0, 10.0), (0.0, 400.0, 100.0, 20.0), (-3.0, 900.0, 80.0, 30.0), (10.0, 50.0, 120.0, 10.0)],
)
def test_matches_a_simulated_walk(drift: float, variance: float, cushion: float, horizon_s: float) -> None:
    rng = np.random.default_rng(7)
    steps, walks = 1000, 2000
    step_s = horizon_s / steps
    moves = rng.normal(drift * step_s, math.sqrt(variance * step_s), (walks, steps))
    reached = float((moves.cumsum(axis=1).max(axis=1) >= cushion).mean())
    probability = preemption_probability(
        cushion=cushion, horizon_s=horizon_s, demand=DemandRate(drift=drift, variance=variance)
    )
    assert probability == pytest.approx(reached, abs=0.04)


def test_without_drift_it_is_twice_the_normal_tail() -> None:
    # Reflection principle: 2 * P(Z > 100 / sqrt(400 * 25)) = 2 * P(Z > 1).
    probability = preemption_probability(cushion=100, horizon_s=25, demand=DemandRate(drift=0.0, variance=400.0))
    assert probability == pytest.approx(0.3173, abs=1e-4)


def test_steady_consumption_reaches_the_cushion_at_a_known_time() -> None:
    demand = DemandRate(drift=10.0, variance=0.0)
    assert preemption_probability(cushion=100, horizon_s=9.9, demand=demand) == 0.0
    assert preemption_probability(cushion=100, horizon_s=10.0, demand=demand) == 1.0


def test_who_has_no_cushion_is_next() -> None:
    assert preemption_probability(cushion=0, horizon_s=1, demand=DemandRate(drift=-1.0, variance=0.0)) == 1.0


@given(cushion=cushions, horizon_s=horizons, demand=demands)
def test_is_a_probability_however_extreme_the_engine(cushion: float, horizon_s: float, demand: DemandRate) -> None:
    assert 0 <= preemption_probability(cushion=cushion, horizon_s=horizon_s, demand=demand) <= 1


@given(
    cushion=st.floats(1, 1e4), horizon_s=st.floats(0.1, 100), drift=st.floats(-100, 100), variance=st.floats(1, 1e4),
    factor=st.floats(1, 3),
)  # fmt: skip
def test_lower_rank_longer_stay_and_more_demand_are_riskier(
    cushion: float, horizon_s: float, drift: float, variance: float, factor: float
) -> None:
    def at(*, cushion: float = cushion, horizon_s: float = horizon_s, drift: float = drift) -> float:
        return preemption_probability(
            cushion=cushion, horizon_s=horizon_s, demand=DemandRate(drift=drift, variance=variance)
        )

    assert at(cushion=cushion * factor) <= at() + 1e-9
    assert at(horizon_s=horizon_s * factor) >= at() - 1e-9
    assert at(drift=drift + factor) >= at() - 1e-9


def test_demand_is_drift_and_spread_of_what_steps_took() -> None:
    watched = BlockDemand()
    rng = np.random.default_rng(3)
    for blocks in rng.normal(0.5, 2.0, 4000):
        watched.observe(float(blocks), 0.02)
    assert watched.rate.drift == pytest.approx(25, abs=15)
    assert watched.rate.variance == pytest.approx(4 / 0.02, rel=0.25)


def test_demand_forgets() -> None:
    watched = BlockDemand()
    for _ in range(1000):
        watched.observe(5.0, 0.1)
    for _ in range(1000):
        watched.observe(-1.0, 0.1)
    assert watched.rate.drift == pytest.approx(-10, abs=0.1)


def test_nothing_seen_is_no_demand() -> None:
    watched = BlockDemand()
    watched.observe(3.0, 0.0)
    assert watched.rate == DemandRate(drift=0.0, variance=0.0)


def test_chances_of_steps_add_up_to_that_of_the_whole_time() -> None:
    step = chance_within(0.6, horizon_s=10.0, elapsed_s=0.1)
    assert 1 - (1 - step) ** 100 == pytest.approx(0.6)
    assert chance_within(0.6, horizon_s=0.05, elapsed_s=0.1) == 0.6
    assert 0 < chance_within(1.0, horizon_s=10.0, elapsed_s=0.1) < 0.1


def test_the_level_of_risks_is_learned_from_what_happens() -> None:
    """20 residents at 0.6 within 10 s, and a tenth of the preemptions which that makes."""
    level = RiskLevel()
    assert level.scaled(0.6) == pytest.approx(0.6)
    predicted = 20 * chance_within(0.6, horizon_s=10.0, elapsed_s=0.1)
    happening = 0.0
    for _ in range(6000):
        happening += predicted / 10
        happened = int(happening)
        happening -= happened
        level.observe(predicted=predicted, happened=happened, elapsed_s=0.1)
    assert level.factor == pytest.approx(0.1, rel=0.15)
    assert level.scaled(0.6) == pytest.approx(1 - 0.4**level.factor)


@given(probability=st.floats(0, 1), predicted=st.floats(0, 1e6), happened=st.integers(0, 10**6))
def test_a_scaled_risk_is_a_probability(probability: float, predicted: float, happened: int) -> None:
    level = RiskLevel()
    level.observe(predicted=predicted, happened=happened, elapsed_s=1.0)
    assert 0 <= level.scaled(probability) <= 1
    assert level.scaled(probability / 2) <= level.scaled(probability)
