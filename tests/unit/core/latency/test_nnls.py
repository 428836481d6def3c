"""Non-negative least squares: the optimality conditions hold, whatever the matrix."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.latency.nnls import nnls


def normal_equations(rows: list[list[float]], right: list[float]) -> tuple[list[list[float]], list[float]]:
    size = len(rows[0])
    gram = [[sum(row[i] * row[j] for row in rows) for j in range(size)] for i in range(size)]
    return gram, [sum(row[i] * value for row, value in zip(rows, right, strict=True)) for i in range(size)]


def test_recovers_positive_coefficients_of_very_different_size() -> None:
    rng = random.Random(1)
    truth = [6e-3, 2e-5, 5e-10, 4e-8, 7e-6]
    rows = [[1, rng.random() * 8e3, rng.random() * 6e7, rng.random() * 3e5, rng.random() * 256] for _ in range(50)]
    right = [sum(a * b for a, b in zip(row, truth, strict=True)) for row in rows]
    assert nnls(*normal_equations(rows, right)) == pytest.approx(truth, rel=1e-3)


def test_unknown_that_was_never_seen_is_zero() -> None:
    assert nnls([[4.0, 0.0], [0.0, 0.0]], [8.0, 0.0]) == pytest.approx([2.0, 0.0])


def test_identical_features_are_solved() -> None:
    values = nnls([[2.0, 2.0], [2.0, 2.0]], [2.0, 2.0])
    assert sum(values) == pytest.approx(1.0)
    assert min(values) >= 0


@given(
    rows=st.lists(st.lists(st.integers(-9, 9).map(float), min_size=5, max_size=5), min_size=1, max_size=8),
    data=st.data(),
)
def test_optimality_conditions_hold(rows: list[list[float]], data: st.DataObject) -> None:
    """x >= 0, no descent into a free unknown, no slope along one in use."""
    right = data.draw(st.lists(st.integers(-99, 99).map(float), min_size=len(rows), max_size=len(rows)))
    gram, target = normal_equations(rows, right)
    values = nnls(gram, target)
    scale = 1 + max(map(abs, target))
    for i in range(5):
        slope = target[i] - sum(gram[i][j] * values[j] for j in range(5))
        assert values[i] >= 0
        assert slope <= 1e-4 * scale
        if values[i] > 1e-6:
            assert slope >= -1e-4 * scale
