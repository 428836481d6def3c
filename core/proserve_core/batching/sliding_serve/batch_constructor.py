"""BatchConstructor: which prompts run when not all first tokens at risk can be met.

Source: SlidingServe, BatchConstructor: a 0/1 knapsack solved by dynamic programming when the batch is predicted to
cause TTFT violations. Weights, values and capacity are ours: an item is a protected or normal prompt, it weighs its
marginal time, rounded up to whole milliseconds, and is worth `PROTECTED_VALUE` times its class's weight if it is
protected, else 1; the capacity is the time that decodes leave before the tightest deadline.
"""

from collections.abc import Sequence

import numpy as np

from proserve_core.batching.sliding_serve.priority_sorter import Level, Ranked

MAX_ITEMS = 64
"""First prompts in the sorter's order that are considered."""
UNIT_S = 1e-3
PROTECTED_VALUE = 100.0
MAX_UNITS = 1000
"""A larger capacity is cut: the table has items * units entries."""
_ROUNDING = 1e-6
"""Units by which a prompt may exceed whole ones without weighing one more."""


def choose(ranked: Sequence[Ranked], *, capacity_s: float) -> list[Ranked] | None:
    """The most valuable prompts that fit, in the sorter's order; None when they are just the first ones anyway.

    Args:
        ranked: prompts in the sorter's order.
        capacity_s: time for prompts in the step.
    """
    items = [item for item in ranked if item.level is not Level.LOST][:MAX_ITEMS]
    capacity = min(int(capacity_s / UNIT_S + _ROUNDING), MAX_UNITS)
    if capacity <= 0 or not items:
        return None
    weights = [_units(item) for item in items]
    values = [_value(item) for item in items]
    taken = knapsack(weights, values, capacity)
    if sum(values[index] for index in taken) <= _prefix_value(weights, values, capacity):
        return None
    return [items[index] for index in taken]


def knapsack(weights: Sequence[int], values: Sequence[float], capacity: int) -> list[int]:
    """Ascending indices of items with the largest total value within `capacity`; of equals the earlier ones."""
    # best[i, c]: largest value of items i.. within c; from the end, so that following it prefers earlier items.
    best = np.zeros((len(weights) + 1, capacity + 1))
    for index in range(len(weights) - 1, -1, -1):
        weight, row, behind = weights[index], best[index], best[index + 1]
        row[:] = behind
        if weight <= capacity:
            np.maximum(row[weight:], behind[: capacity + 1 - weight] + values[index], out=row[weight:])
    taken, left = [], capacity
    for index, (weight, value) in enumerate(zip(weights, values, strict=True)):
        if weight <= left and value + best[index + 1, left - weight] >= best[index, left]:
            taken.append(index)
            left -= weight
    return taken


def _prefix_value(weights: Sequence[int], values: Sequence[float], capacity: int) -> float:
    """Worth of the first prompts up to the first one that does not fit."""
    total = 0.0
    for weight, value in zip(weights, values, strict=True):
        if weight > capacity:
            break
        capacity -= weight
        total += value
    return total


def _units(item: Ranked) -> int:
    return max(1, -int(-(item.work_s / UNIT_S - _ROUNDING) // 1))


def _value(item: Ranked) -> float:
    return PROTECTED_VALUE * item.request.terms.weight if item.level is Level.PROTECTED else 1.0
