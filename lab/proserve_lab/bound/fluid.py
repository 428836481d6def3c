"""The bound of a workload: coarse buckets first, then finer ones, and long workloads in windows.

A long workload is priced in windows of requests that overlap, and the bound is evaluated once at the prices of all
windows together, so that no gain is counted twice and the value holds however the windows were cut.
"""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.batching import EngineLimits
from proserve_core.latency import LatencyModel
from proserve_lab.bound.engine import BEYOND, RESOURCES, EngineCosts
from proserve_lab.bound.master import Buckets
from proserve_lab.bound.output_lengths import BandLengths, OutputTokens, TrueLengths
from proserve_lab.bound.prices import Priced, bound_at, find_prices, usual_prices
from proserve_lab.bound.windows import (
    Requests,
    Windows,
    bucket_edges,
    bucket_of,
    lay_out,
    present,
    read_requests,
    run_starts,
)
from proserve_lab.simulation.workload import SimulatedRequest

Column = NDArray[np.float64]
Index = NDArray[np.intp]

WIDTHS_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
WINDOW_PLACES = 14_000
"""Places of all requests' lives together in one window: solved in 5-40 s; finer ones give 0.2 points at most."""
WINDOW_PLACES_UNKNOWN = 40_000
"""The same when lengths are unknown: each life is as long as the longest, and coarser buckets say little."""
WINDOW_BUCKETS = 3000
"""Buckets of one window: rows of the linear program."""
MOST_BUCKETS = 40_000_000
"""Buckets of all requests' lives in the whole workload: about 3 GB."""
WINDOW = 1500
"""Requests whose arrivals a window prices."""
HALO = 500
"""Requests before and after them that compete for the same buckets."""
LADDER = (8, 2, 1)
"""Widths in turn, in units of the finest: prices of coarse buckets are where finer ones begin."""
GOOD_ENOUGH = 1e-3
"""Share of the earnable gain by which the bound may exceed the least one."""
_COARSE_ENOUGH = 2e-3
ROUNDING_UP = 1 + 1e-6
"""More than rounding can take away anywhere."""
_FREE_REACH = 100.0
_REACH = 0.5


class BoundError(ValueError):
    """The workload is beyond what can be bounded; the message says what to change."""


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """No schedule earns a larger share of what would be earned with every token on time."""

    tdg_bound: float
    status: str
    """`optimal`: no better prices exist to speak of; `feasible`: a bound as well, but not the least."""
    bucket_s: float
    buckets: int
    windows: int
    rounds: int
    """Linear programs solved."""


def fluid_bound(
    requests: Sequence[SimulatedRequest],
    *,
    latency: LatencyModel,
    limits: EngineLimits,
    replicas: int = 1,
    lengths_known: bool = True,
    bucket_s: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Bound:
    """Bound the TDG ratio of `requests` (in order of arrival).

    Args:
        lengths_known: False for policies that know of an output only what its prompt's length says. The value then
            bounds the mean over workloads whose output lengths are drawn anew within their prompt bands.
        bucket_s: width of a time bucket; None takes the finest that is solved in about a minute. Smaller is tighter.
        progress: called with what is being done, for people.

    Raises:
        BoundError: too many requests with too long lives.
        SolverError: HiGHS failed.
    """
    engine = EngineCosts(latency=latency, limits=limits, replicas=replicas)
    lengths: OutputTokens = TrueLengths(requests) if lengths_known else BandLengths(requests)
    columns = read_requests(requests, engine=engine, lengths=lengths)
    earnable = float(columns.earnable.sum())
    if earnable <= 0:
        return Bound(tdg_bound=1.0, status="optimal", bucket_s=bucket_s or 0.0, buckets=0, windows=0, rounds=0)
    width_s = (
        bucket_s
        if bucket_s is not None
        else _width_s(columns, places=WINDOW_PLACES if lengths_known else WINDOW_PLACES_UNKNOWN)
    )
    return _Bounding(columns, lengths, engine, width_s, progress).run()


def _width_s(requests: Requests, *, places: int) -> float:
    """The finest width that keeps windows solvable.

    Raises:
        BoundError: even the coarsest makes too many buckets.
    """
    lives_s = requests.last_due_s - requests.arrival_s
    horizon_s = float(requests.last_due_s.max() - requests.arrival_s[0])
    share = min(1.0, (WINDOW + 2 * HALO) / len(lives_s))
    for width_s in WIDTHS_S:
        lives = lives_s / width_s + 1
        needed = np.searchsorted(run_starts(int(lives.max()) + 1), lives).sum()
        buckets = share * horizon_s / width_s
        if needed * share <= places and buckets <= WINDOW_BUCKETS and lives.sum() <= MOST_BUCKETS:
            return width_s
    raise BoundError(
        f"{len(lives_s)} requests with deadlines up to {lives_s.max():.0f} s after arrival are too many to bound: "
        "take fewer with --limit"
    )


class _Bounding:
    """One workload at one width of its finest buckets."""

    def __init__(
        self,
        requests: Requests,
        lengths: OutputTokens,
        engine: EngineCosts,
        width_s: float,
        progress: Callable[[str], None],
    ) -> None:
        self._requests = requests
        self._lengths = lengths
        self._engine = engine
        self._width_s = width_s
        self._progress = progress
        self._rounds = 0

    def run(self) -> Bound:
        count = len(self._requests.prompt)
        everyone = np.arange(count)
        edges = bucket_edges(self._requests, self._width_s)
        if count <= WINDOW + 2 * HALO:
            windows = 1
            found, _ = self._price(everyone, "")
            bound, optimal = found.bound, found.optimal
        else:
            windows = math.ceil(count / WINDOW)
            prices = self._window_prices(edges, windows)
            self._progress(f"{count} requests together")
            groups, buckets = self._lay_out(everyone, edges)
            (bound, _), optimal = bound_at(groups, buckets, buckets.affordable(prices)), False
        return Bound(
            tdg_bound=min(1.0, ROUNDING_UP * bound / float(self._requests.earnable.sum())),
            status="optimal" if optimal else "feasible",
            bucket_s=self._width_s,
            buckets=len(edges) - 1,
            windows=windows,
            rounds=self._rounds,
        )

    def _window_prices(self, edges: Column, windows: int) -> Column:
        """Prices of all buckets, each from the window whose requests arrive then; the last window's at the end."""
        count = len(self._requests.prompt)
        prices = np.zeros((RESOURCES, len(edges) - 1))
        for number in range(windows):
            begin, end = number * WINDOW, min((number + 1) * WINDOW, count)
            chosen = np.arange(max(0, begin - HALO), min(count, end + HALO))
            found, offset = self._price(chosen, f"window {number + 1} of {windows}: ")
            since = int(bucket_of(edges, self._requests.arrival_s[begin]))
            prices[:, since : offset + found.prices.shape[1]] = found.prices[:, since - offset :]
            prices[:, offset + found.prices.shape[1] :] = 0.0
        return prices

    def _price(self, chosen: Index, label: str) -> tuple[Priced, int]:
        """Prices for the `chosen` requests and the bucket that they begin with."""
        earnable = float(self._requests.earnable[chosen].sum())
        found: Priced | None = None
        found_edges = np.zeros(0)
        offset = 0
        for factor in LADDER:
            whole = bucket_edges(self._requests, self._width_s * factor)
            offset = int(bucket_of(whole, self._requests.arrival_s[chosen[0]]))
            beyond = int(bucket_of(whole, self._requests.last_due_s[chosen].max())) + 1
            edges = whole[offset : beyond + 1]
            groups, buckets = self._lay_out(chosen, edges)
            usual = usual_prices(buckets, gain_per_s=self._gain_per_s(chosen))
            start = np.zeros_like(usual)
            if found is None:
                start[BEYOND] = usual[BEYOND]
            else:
                centre_s = (edges[1:] + edges[:-1]) / 2
                start = buckets.affordable(found.prices[:, bucket_of(found_edges, centre_s)])
            found = find_prices(
                groups,
                buckets,
                start=start,
                usual=usual,
                reach=_FREE_REACH if factor == LADDER[0] else _REACH,
                earnable=earnable,
                good_enough=GOOD_ENOUGH if factor == LADDER[-1] else _COARSE_ENOUGH,
                progress=self._reporter(f"{label}{self._width_s * factor:g} s buckets"),
            )
            found_edges = edges
            self._rounds += found.rounds
        assert found is not None
        return found, offset

    def _reporter(self, doing: str) -> Callable[[float], None]:
        return lambda hoped: self._progress(f"{doing}, may still fall by {hoped:.4f}")

    def _lay_out(self, chosen: Index, edges: Column) -> tuple[list[Windows], Buckets]:
        groups = lay_out(self._requests, chosen, edges=edges, engine=self._engine, lengths=self._lengths)
        entries = np.minimum(present(self._requests, edges), self._engine.limits.max_sequences)
        return groups, Buckets(width_s=np.diff(edges), entries=entries, engine=self._engine)

    def _gain_per_s(self, chosen: Index) -> float:
        """Half of what a second of work earns when all is earned."""
        requests, engine = self._requests, self._engine
        prompt = requests.prompt[chosen]
        decode_s = engine.decode_s(prompt) + engine.latency.linear_token_s
        work_s = engine.prefill(prompt)[0] + requests.decodes[chosen] * decode_s
        return 0.5 * float(requests.earnable[chosen].sum() / max(work_s.sum(), 1e-9))
