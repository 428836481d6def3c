"""Non-negative least squares on normal equations, for a handful of unknowns.

Source: Lawson and Hanson, Solving Least Squares Problems, chapter 23 (active set), on the Gram matrix. Plain Python:
for five unknowns a call costs tens of microseconds, less than numpy's overhead, and the online fit runs between steps.
"""

import math
from collections.abc import Sequence

RIDGE = 1e-10
"""Keeps features that never varied apart from each other solvable; relative to each feature's own scale."""


def nnls(gram: Sequence[Sequence[float]], target: Sequence[float]) -> list[float]:
    """Minimise x'Gx/2 - t'x over x >= 0, for a symmetric positive semi-definite G.

    Unknowns that G does not see (zero diagonal) are 0.
    """
    size = len(target)
    scale = [1 / math.sqrt(gram[i][i]) if gram[i][i] > 0 else 0.0 for i in range(size)]
    unit = [[gram[i][j] * scale[i] * scale[j] + (RIDGE if i == j else 0.0) for j in range(size)] for i in range(size)]
    goal = [value * factor for value, factor in zip(target, scale, strict=True)]
    tolerance = 1e-9 * max(map(abs, goal), default=0.0)
    values = [0.0] * size
    # Mostly nothing is negative, and the first solution is the last.
    free = [i for i in range(size) if scale[i]]
    _settle(unit, goal, values, free)
    useless: set[int] = set()
    while True:
        best, steepest = -1, tolerance
        for i in range(size):
            if scale[i] and i not in free and i not in useless:
                row = unit[i]
                slope = goal[i] - sum([row[j] * values[j] for j in free])
                if slope > steepest:
                    best, steepest = i, slope
        if best < 0:
            return [value * factor for value, factor in zip(values, scale, strict=True)]
        free.append(best)
        _settle(unit, goal, values, free)
        if best in free:
            useless.clear()
        else:
            # Freed and pushed back at once: rounding, and trying again would go on for ever.
            useless.add(best)


def _settle(gram: list[list[float]], goal: list[float], values: list[float], free: list[int]) -> None:
    """Move `values` to the minimum over the free unknowns, giving up those that would become negative."""
    while free:
        solution = _solve([[gram[i][j] for j in free] for i in free], [goal[i] for i in free])
        step, leaving = 1.0, -1
        for i, found in zip(free, solution, strict=True):
            if found <= 0:
                reach = values[i] / (values[i] - found) if values[i] > found else 0.0
                if leaving < 0 or reach < step:
                    step, leaving = reach, i
        for i, found in zip(free, solution, strict=True):
            values[i] += step * (found - values[i])
        if leaving < 0:
            return
        values[leaving] = 0.0
        free.remove(leaving)


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a positive definite system by Cholesky; `matrix` is overwritten by its factor."""
    size = len(right)
    for i in range(size):
        row = matrix[i]
        for j in range(i):
            other = matrix[j]
            row[j] = (row[j] - sum([row[k] * other[k] for k in range(j)])) / other[j]
        row[i] = math.sqrt(max(row[i] - sum([row[k] ** 2 for k in range(i)]), RIDGE))
    half: list[float] = []
    for i in range(size):
        row = matrix[i]
        half.append((right[i] - sum([row[k] * half[k] for k in range(i)])) / row[i])
    solution = [0.0] * size
    for i in range(size - 1, -1, -1):
        tail = sum([matrix[k][i] * solution[k] for k in range(i + 1, size)])
        solution[i] = (half[i] - tail) / matrix[i][i]
    return solution
