"""Output positions in bins that grow by 12%: how exposure is counted, and what hazards per bin mean.

Inside a bin the hazard is constant, so survival and mean rest have closed forms, and an answer costs O(bins), not
O(tokens).
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]
Index = NDArray[np.intp]
Table = NDArray[np.float64]
"""One row per distribution, one column per bin."""

GROWTH = 1.12
LAST_TOKEN = 16384
"""Beyond it the last bin's hazard goes on."""


def _bin_starts() -> Index:
    starts = [1]
    while (following := max(starts[-1] + 1, round(starts[-1] * GROWTH))) <= LAST_TOKEN:
        starts.append(following)
    return np.array(starts, dtype=np.intp)


STARTS = _bin_starts()
"""First output position (1-based) of each bin."""
BINS = len(STARTS)
WIDTHS = np.append(np.diff(STARTS), np.inf)
_BEFORE = STARTS - 1.0
"""Tokens emitted when a request enters each bin."""
_BIN_OF = np.searchsorted(STARTS, np.arange(LAST_TOKEN + 1) + 1, side="right") - 1
"""By tokens emitted so far: bin of the next token."""
_LEAST_LOG = -300.0
"""Survival below e to this is not followed any further."""


def last_bin(emitted: int) -> int:
    """Bin of the last token of an output."""
    return int(_BIN_OF[min(emitted, LAST_TOKEN) - 1])


def passed(since: Column, until: Column) -> tuple[Index, Index, Column]:
    """Tokens by output and bin where outputs went from `since` to `until` emitted tokens: output, bin, tokens.

    An output that turned out shorter than it was counted goes back: its tokens are negative.
    """
    moved = (until != since).nonzero()[0]
    least, most = np.minimum(since, until)[moved], np.maximum(since, until)[moved]
    first = _BIN_OF[np.minimum(least, LAST_TOKEN).astype(np.intp)]
    last = _BIN_OF[np.minimum(most - 1, LAST_TOKEN).astype(np.intp)]
    count = last - first + 1
    ends = count.cumsum()
    output = moved.repeat(count)
    bins = np.arange(len(output)) + (first - ends + count).repeat(count)
    before, width = _BEFORE[bins], WIDTHS[bins]
    tokens = np.clip(until[output] - before, 0.0, width) - np.clip(since[output] - before, 0.0, width)
    return output, bins, tokens


def passed_by_one(since: int, until: int) -> tuple[int, Column]:
    """`passed` of one output that has become longer: the first bin, and tokens in each bin from there on."""
    first, last = int(_BIN_OF[min(since, LAST_TOKEN)]), int(_BIN_OF[min(until - 1, LAST_TOKEN)])
    tokens = WIDTHS[first : last + 1].copy()
    tokens[-1] = until - _BEFORE[last]
    tokens[0] -= since - _BEFORE[first]
    return first, tokens


def locate_one(emitted: int) -> tuple[int, float]:
    """`locate` of one output."""
    at = int(_BIN_OF[min(emitted, LAST_TOKEN)])
    return at, emitted - float(_BEFORE[at])


def locate(emitted: Column) -> tuple[Index, Column]:
    """Bin of the next token, and tokens emitted inside it."""
    bins = _BIN_OF[np.minimum(emitted, LAST_TOKEN).astype(np.intp)]
    return bins, emitted - _BEFORE[bins]


class Survival(msgspec.Struct, frozen=True):
    """What hazards per bin mean; tables of the same shape."""

    log_survival: Table
    """Log of the chance to get as far as each bin."""
    log_stay: Table
    """Log of the chance to go on, per token of the bin."""
    tail: Table
    """Mean rest if the bin went on for ever."""
    beyond: Table
    """By how much the mean rest on leaving the bin differs from that."""


def survival(hazard: Table) -> Survival:
    """What hazards (below 1) mean."""
    log_stay = np.log1p(-hazard)
    across = log_stay[:, :-1] * WIDTHS[:-1]
    log_survival = np.zeros_like(hazard)
    np.cumsum(across, axis=1, out=log_survival[:, 1:])
    np.maximum(log_survival, _LEAST_LOG, out=log_survival)
    tail = 1 / hazard
    reached = np.exp(log_survival)
    # Tokens from each bin to the end, as seen from the start: those of the bin itself, then a running sum from behind.
    ahead = reached * tail
    ahead[:, :-1] *= -np.expm1(across)
    rest = np.cumsum(ahead[:, ::-1], axis=1)[:, ::-1] / reached
    following = np.concatenate((rest[:, 1:], tail[:, -1:]), axis=1)
    return Survival(log_survival, log_stay, tail, following - tail)
