"""How many tokens a request will still emit: output lengths, learned online per band of prompt lengths.

A discrete hazard table. Of all tokens emitted as the n-th of an output (exposure), some were the last one (events);
events over exposure is the chance that an output ends there. Requests that are still running count with what they have
emitted, so the table is unbiased from the first second on, although short outputs end first. Output positions are in
bins that grow by 12%, prompts in bands that double: outputs differ by prompt length more than by anything else that an
engine knows (36 tokens below 1k prompt and 170-400 above in one production trace, worth 3.5 points of gain there).

Sparse counts lean on coarser ones: a band's bin on the bin over all bands (`BAND_PRIOR` events), that one on the mean
over everything, and before any request was seen the mean is `FIRST_GUESS_TOKENS`. Inside a bin the hazard is constant,
so survival and mean rest have closed forms and a rebuild costs O(bins), not O(tokens).
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]
Index = NDArray[np.intp]

GROWTH = 1.12
LAST_TOKEN = 16384
"""Beyond it the last bin's hazard goes on."""
BAND_EDGES = np.array([256, 512, 1024, 2048, 4096, 8192, 16384])
"""Prompt tokens at which the next band begins."""
BANDS = len(BAND_EDGES) + 1
FIRST_GUESS_TOKENS = 200
BAND_PRIOR = 4
LONGEST_PRIOR_TOKENS = 400
"""Where outputs hardly ever end, so many tokens of a band count as much as what is known from all."""
HIGHEST_HAZARD = 0.999
REBUILD_S = 1.0


def _bin_starts() -> Index:
    starts = [1]
    while (following := max(starts[-1] + 1, round(starts[-1] * GROWTH))) <= LAST_TOKEN:
        starts.append(following)
    return np.array(starts, dtype=np.intp)


STARTS = _bin_starts()
"""First output position (1-based) of each bin."""
BINS = len(STARTS)
_WIDTHS = np.append(np.diff(STARTS), np.inf)
_BEFORE = STARTS - 1.0
"""Tokens emitted when a request enters each bin."""
_BIN_OF = np.searchsorted(STARTS, np.arange(LAST_TOKEN + 1) + 1, side="right") - 1
"""By tokens emitted so far: bin of the next token."""


class LengthCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a table has learned, by band and bin; what is kept across restarts."""

    events: list[list[int]]
    """Outputs that ended there."""
    exposure: list[list[int]]
    """Tokens emitted there."""


class LengthTable:
    """Learns from tokens and ends, answers for columns of requests. Answers change only with `rebuild`."""

    def __init__(self, counts: LengthCounts | None = None) -> None:
        """Start from `counts`, or from nothing.

        Raises:
            ValueError: counts of another shape, or negative ones.
        """
        shape = (BANDS, BINS)
        self._events = np.zeros(shape)
        self._exposure = np.zeros(shape)
        if counts is not None:
            for field, rows in (("events", counts.events), ("exposure", counts.exposure)):
                if len(rows) != BANDS or any(len(row) != BINS or min(row) < 0 for row in rows):
                    raise ValueError(f"{field}: expected {BANDS} bands of {BINS} counts from 0 on; delete the file")
            self._events += counts.events
            self._exposure += counts.exposure
        self.finished = int(self._events.sum())
        self._rebuilt_finished = self.finished
        self._rebuilt_s = -np.inf
        self.rebuild(self._rebuilt_s)

    def counts(self) -> LengthCounts:
        """Everything learned so far."""
        return LengthCounts(
            events=self._events.astype(int).tolist(), exposure=np.maximum(self._exposure, 0).astype(int).tolist()
        )

    def saw_tokens(self, bands: Index, since: Column, until: Column) -> None:
        """Requests of `bands` have gone from `since` to `until` emitted tokens."""
        added = _exposure(until) - _exposure(since)
        np.add.at(self._exposure, bands, added)

    def saw_end(self, band: int, emitted: int) -> None:
        """An output ended after `emitted` tokens. An output that was cut off from outside is none: do not report it."""
        if emitted > 0:
            self._events[band, _BIN_OF[min(emitted, LAST_TOKEN) - 1]] += 1
            self.finished += 1

    def due(self, now_s: float) -> bool:
        """Whether answers should be brought up to date: each second, and sooner while there is little knowledge."""
        return now_s - self._rebuilt_s >= REBUILD_S or self.finished > 1.5 * self._rebuilt_finished + 5

    def rebuild(self, now_s: float) -> None:
        """Bring the answers up to date."""
        self._rebuilt_s, self._rebuilt_finished = now_s, self.finished
        events, exposure = self._events, np.maximum(self._exposure, 0)
        mean = (events.sum() + 1) / (exposure.sum() + FIRST_GUESS_TOKENS)
        pooled = (events.sum(axis=0) + 1) / (exposure.sum(axis=0) + 1 / mean)
        lean = np.minimum(BAND_PRIOR / pooled, LONGEST_PRIOR_TOKENS)
        hazard = np.minimum((events + lean * pooled) / (exposure + lean), HIGHEST_HAZARD)
        log_stay = np.log1p(-hazard)
        across = log_stay[:, :-1] * _WIDTHS[:-1]
        log_survival = np.zeros_like(hazard)
        np.cumsum(across, axis=1, out=log_survival[:, 1:])
        tail = 1 / hazard
        rest = tail.copy()  # mean rest on entering each bin
        stay = np.exp(across)
        for place in range(BINS - 2, -1, -1):
            rest[:, place] = tail[:, place] + stay[:, place] * (rest[:, place + 1] - tail[:, place])
        following = np.append(rest[:, 1:], tail[:, -1:], axis=1)
        # One row per quantity over band * BINS + bin, so that a look-up is one index.
        self._log_survival = log_survival.ravel()
        self._log_stay = log_stay.ravel()
        self._tail = tail.ravel()
        self._beyond = (following - tail).ravel()

    def expected_rest(self, bands: Index, emitted: Column, skipped: Column | None = None) -> Column:
        """Expected tokens after the next `skipped` ones (default: none), for requests that have emitted `emitted`.

        With S the survival function it is sum over i >= emitted + skipped of S(i) / S(emitted).
        """
        at = emitted if skipped is None else emitted + skipped
        cells, inside = _locate(bands, at)
        rest: Column = self._tail[cells] + self._beyond[cells] * np.exp(
            (_WIDTHS[cells % BINS] - inside) * self._log_stay[cells]
        )
        if skipped is None:
            return rest
        log_at = self._log_survival[cells] + inside * self._log_stay[cells]
        cells, inside = _locate(bands, emitted)
        reached: Column = np.exp(log_at - self._log_survival[cells] - inside * self._log_stay[cells]) * rest
        return reached


def band_of(prompt_tokens: int) -> int:
    """Band of a prompt."""
    return int(np.searchsorted(BAND_EDGES, prompt_tokens, side="right"))


def _locate(bands: Index, emitted: Column) -> tuple[Index, Column]:
    """Cell of the next token, and tokens emitted inside its bin."""
    bins = _BIN_OF[np.minimum(emitted, LAST_TOKEN).astype(np.intp)]
    return bands * BINS + bins, emitted - _BEFORE[bins]


def _exposure(emitted: Column) -> NDArray[np.float64]:
    """Tokens by bin of outputs with `emitted` tokens; one row each."""
    return np.clip(emitted[:, None] - _BEFORE, 0.0, _WIDTHS)
