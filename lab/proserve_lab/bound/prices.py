"""Prices of engine work that make the bound small.

For any prices that are not negative, what the buckets hold at these prices plus the best plan of each request at these
prices bounds the gain of all schedules (weak duality), however the prices were found. So the solver's accuracy decides
how tight the bound is and never whether it holds. The smallest such bound is the optimum of the linear program that
mixes plans (Dantzig and Wolfe), and rounds of "price, best plans, mix them" approach it.
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_lab.bound.engine import BEYOND, FLOOR, RESOURCES, SEQUENCES, TOKENS
from proserve_lab.bound.master import Buckets, MasterProgram
from proserve_lab.bound.plans import Choice, best_plans, plan_columns
from proserve_lab.bound.windows import Windows

Column = NDArray[np.float64]

MOST_ROUNDS = 60


_LEAST_MOVE = 0.2


class Priced(msgspec.Struct, frozen=True, kw_only=True):
    """The best prices found and the bound that they prove."""

    prices: Column
    bound: float
    """Gain."""
    optimal: bool
    """No other prices are better to speak of."""
    rounds: int


def bound_at(groups: Sequence[Windows], buckets: Buckets, prices: Column) -> tuple[float, list[Choice]]:
    """The bound that `prices` prove, and the best plans. Prices are such that no step pays (`Buckets.affordable`)."""
    choices = best_plans(groups, prices, buckets.engine.latency.linear_token_s)
    work = float((buckets.capacity * prices).sum())
    return work + sum(float(choice.value.sum()) for choice in choices), choices


def find_prices(
    groups: Sequence[Windows],
    buckets: Buckets,
    *,
    start: Column,
    usual: Column,
    reach: float,
    earnable: float,
    good_enough: float,
    progress: Callable[[float], None],
) -> Priced:
    """Improve `start`.

    Args:
        start: prices to begin with.
        usual: the order of magnitude of prices.
        reach: how far prices may move in a round at first, as a share of themselves; low ones as a share of `usual`.
        good_enough: share of `earnable` by which the bound may exceed the best one.
        progress: called each round with the share by which the bound may still fall.
    """
    if not groups:
        return Priced(prices=np.zeros_like(start), bound=0.0, optimal=True, rounds=0)
    requests = np.sort(np.concatenate([windows.requests for windows in groups]))
    master = MasterProgram(buckets, requests=requests, earnable=earnable)
    token_s = buckets.engine.latency.linear_token_s
    centre = start
    best, choices = bound_at(groups, buckets, centre)
    prices = centre
    for number in range(1, MOST_ROUNDS + 1):
        master.add(plan_columns(groups, choices, prices, token_s))
        radius = reach * np.maximum(centre, _LEAST_MOVE * usual)
        prices, least = master.solve(centre, radius)
        hoped = (best - least) / earnable
        progress(max(hoped, 0.0))
        bound, choices = bound_at(groups, buckets, prices)
        inside = bool((np.abs(prices - centre) < 0.99 * radius).all())
        if hoped < good_enough:
            if inside or reach > 1e3:
                if bound < best:
                    best, centre = bound, prices
                return Priced(prices=centre, bound=best, optimal=True, rounds=number)
            reach *= 4
        if bound < best - 0.5 * (best - least):
            reach *= 1.5
        elif bound > best - 0.1 * (best - least):
            reach *= 0.6
        if bound < best:
            best, centre = bound, prices
    return Priced(prices=centre, bound=best, optimal=False, rounds=MOST_ROUNDS)


def usual_prices(buckets: Buckets, *, gain_per_s: float) -> Column:
    """What things might cost when a second of engine time is worth `gain_per_s`: places in a step share its time."""
    prices = np.zeros((RESOURCES, len(buckets.width_s)))
    step = gain_per_s * (buckets.engine.constant_s + 1e-6)
    prices[BEYOND] = prices[FLOOR] = gain_per_s
    prices[SEQUENCES] = step / np.maximum(buckets.entries, 1.0)
    prices[TOKENS] = step / buckets.engine.limits.max_step_tokens
    return prices
