"""The linear program that mixes plans so that each bucket's work fits into it, solved by HiGHS.

Maximise the gain of the mix, with at most one plan a request and at most the engines' time in each bucket. The number
of steps in a bucket is a variable: each takes its constant, and holds so many sequences and tokens. The duals are the
prices of engine work. They are kept in a box around the best prices so far: work can be bought at the upper and sold at
the lower edge of the box (du Merle's stabilisation). Without it prices jump back and forth for dozens of rounds.
"""

import highspy
import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_lab.bound.engine import BEYOND, FLOOR, RESOURCES, SEQUENCES, TOKENS, EngineCosts
from proserve_lab.bound.plans import PlanColumns

Column = NDArray[np.float64]
Index = NDArray[np.intp]

_TOLERANCE = 1e-4
_GAIN = 1000.0
"""All gain together, in the units of the program: its tolerances are absolute."""
_KEEP = 0.05
"""Plans are dropped when their price exceeds their gain by more than this share of it, and can come again."""


class SolverError(RuntimeError):
    """HiGHS found no prices; the message has its words."""


class Buckets(msgspec.Struct, frozen=True, kw_only=True):
    """What the engines have in each time bucket."""

    width_s: Column
    entries: Column
    """Most useful entries of one step."""
    engine: EngineCosts

    @property
    def capacity(self) -> Column:
        """By resource and bucket; entries and tokens are what steps make of the time."""
        time_s = self.engine.replicas * self.width_s
        return np.stack([time_s, time_s, np.zeros_like(time_s), np.zeros_like(time_s)])

    def affordable(self, prices: Column) -> Column:
        """Prices of places in steps cut down until a step costs what it holds: else more steps would always pay."""
        latency = self.engine.latency
        time = prices[BEYOND] * self.engine.constant_s + prices[FLOOR] * (latency.host_s + latency.floor_s)
        places = prices[SEQUENCES] * self.entries + prices[TOKENS] * self.engine.limits.max_step_tokens
        cut = np.divide(time, places, out=np.ones_like(time), where=places > time)
        return np.stack([prices[BEYOND], prices[FLOOR], prices[SEQUENCES] * cut, prices[TOKENS] * cut])


class MasterProgram:
    """Grows with each round of plans."""

    def __init__(self, buckets: Buckets, *, requests: Index, earnable: float) -> None:
        """`requests` are those that may have plans."""
        self._buckets = buckets
        self._requests = requests
        self._unit = earnable / _GAIN
        count = len(buckets.width_s)
        self._count = count
        self._rows = RESOURCES * count + len(requests)
        place = np.arange(count)
        latency = buckets.engine.latency
        steps = np.stack(
            [
                np.full(count, buckets.engine.constant_s),
                np.full(count, latency.host_s + latency.floor_s),
                -buckets.entries,
                np.full(count, -float(buckets.engine.limits.max_step_tokens)),
            ]
        )
        # Columns as in a compressed sparse matrix: lengths of columns, rows, values.
        self._lengths = np.full(count, RESOURCES)
        self._index = (np.arange(RESOURCES)[:, None] * count + place).T.ravel()
        self._value = steps.T.ravel()
        self._gain = np.zeros(count)

    def add(self, plans: PlanColumns) -> None:
        number = len(plans.gain)
        row = np.searchsorted(self._requests, plans.request) + RESOURCES * self._count
        index = np.concatenate([plans.row, row])
        column = np.concatenate([plans.column, np.arange(number)])
        value = np.concatenate([plans.amount, np.ones(number)])
        # Entries of a plan that fall on the same row become one.
        key, place = np.unique(column * self._rows + index, return_inverse=True)
        summed = np.bincount(place, weights=value, minlength=len(key))
        self._lengths = np.concatenate([self._lengths, np.bincount(key // self._rows, minlength=number)])
        self._index = np.concatenate([self._index, key % self._rows])
        self._value = np.concatenate([self._value, summed])
        self._gain = np.concatenate([self._gain, plans.gain / self._unit])

    def solve(self, centre: Column, radius: Column) -> tuple[Column, float]:
        """New prices, at most `radius` from `centre`, and the least value that the bound could have within the box.

        Raises:
            SolverError: HiGHS stopped without a solution.
        """
        rows, count = self._rows, self._count
        capacity = np.concatenate([self._buckets.capacity.ravel(), np.ones(len(self._requests))])
        upper = (centre + radius).ravel() / self._unit
        lower = np.maximum(centre - radius, 0.0).ravel() / self._unit
        bought = np.flatnonzero(np.isfinite(upper))
        sold = np.flatnonzero(lower > 0)
        lengths = np.concatenate([self._lengths, np.ones(len(bought) + len(sold), np.intp)])
        number = len(lengths)
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = number, rows
        program.col_cost_ = np.concatenate([-self._gain, upper[bought], -lower[sold]])
        program.col_lower_ = np.zeros(number)
        program.col_upper_ = np.full(number, np.inf)
        program.row_lower_ = np.full(rows, -np.inf)
        program.row_upper_ = capacity
        program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        program.a_matrix_.start_ = np.concatenate([[0], np.cumsum(lengths)])
        program.a_matrix_.index_ = np.concatenate([self._index, bought, sold])
        program.a_matrix_.value_ = np.concatenate([self._value, -np.ones(len(bought)), np.ones(len(sold))])
        solver = highspy.Highs()  # type: ignore[no-untyped-call]
        solver.setOptionValue("output_flag", False)
        # Interior prices, not those of a corner, are what makes the rounds few; and corners take long to reach.
        solver.setOptionValue("solver", "ipm")
        solver.setOptionValue("run_crossover", "off")
        solver.setOptionValue("presolve", "off")
        solver.setOptionValue("threads", 1)
        solver.setOptionValue("ipm_optimality_tolerance", _TOLERANCE)
        solver.passModel(program)
        solver.run()
        solution = solver.getSolution()
        if not solution.dual_valid:
            raise SolverError(f"HiGHS stopped without prices: {solver.modelStatusToString(solver.getModelStatus())}")
        duals = np.maximum(-np.array(solution.row_dual), 0.0)
        self._drop(duals)
        value = -solver.getInfo().objective_function_value * self._unit
        prices = duals[: RESOURCES * count].reshape(RESOURCES, count) * self._unit
        return self._buckets.affordable(prices), value

    def _drop(self, duals: Column) -> None:
        starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        price = np.add.reduceat(self._value * duals[self._index], starts)
        keep = self._gain - price > -_KEEP * self._gain - _TOLERANCE
        keep[: self._count] = True
        entries = np.repeat(keep, self._lengths)
        self._index, self._value = self._index[entries], self._value[entries]
        self._lengths, self._gain = self._lengths[keep], self._gain[keep]
