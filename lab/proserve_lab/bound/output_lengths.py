"""How many tokens a request has left to earn with: from its true length, or in expectation over its prompt band."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from proserve_core.batching.lengths import BAND_EDGES
from proserve_lab.simulation.workload import SimulatedRequest

Column = NDArray[np.float64]
Index = NDArray[np.intp]

TAIL = 0.003
"""Share of a band's tokens, the last ones, that are granted for nothing: a few outputs would make all windows long."""


class OutputTokens(Protocol):
    """Tokens after the first (decode tokens), by how many of them come before."""

    def longest(self, requests: Index) -> Column:
        """Decode tokens that are looked at."""
        ...

    def before(self, requests: Index, count: Column) -> Column:
        """How many of the first `count` decode tokens exist; `count` has a row for each request."""
        ...

    def more_than(self, requests: Index, count: Column) -> Column:
        """Chance that there are more than `count` decode tokens."""
        ...

    def total(self, requests: Index) -> Column:
        """All decode tokens, also those beyond `longest`."""
        ...


class TrueLengths:
    """A clairvoyant's knowledge."""

    def __init__(self, requests: Sequence[SimulatedRequest]) -> None:
        self._decodes = np.array([request.output_tokens - 1.0 for request in requests])

    def longest(self, requests: Index) -> Column:
        return self._decodes[requests]

    def before(self, requests: Index, count: Column) -> Column:
        exist: Column = np.minimum(count, self._decodes[requests][:, None])
        return exist

    def more_than(self, requests: Index, count: Column) -> Column:
        return (count < self._decodes[requests][:, None]).astype(np.float64)

    def total(self, requests: Index) -> Column:
        return self._decodes[requests]


class BandLengths:
    """What can be known from a prompt's length: the distribution of outputs in its band, as the workload has it.

    Every request of a band may have any of the band's lengths. A policy that knows only the band decides about a
    prefill before it has seen anything of the output, so share of prefill and length are independent and expectations
    multiply; whether to go on decoding may depend on what was emitted, which the chance of more tokens allows for.
    """

    def __init__(self, requests: Sequence[SimulatedRequest]) -> None:
        prompts = np.array([request.prompt_tokens for request in requests])
        decodes = np.array([request.output_tokens - 1 for request in requests])
        self._band = np.searchsorted(BAND_EDGES, prompts, side="right")
        size = int(decodes.max()) + 2
        bands = len(BAND_EDGES) + 1
        self._more = np.zeros((bands, size))
        self._before = np.zeros((bands, size))
        self._longest = np.zeros(bands)
        for band in np.unique(self._band):
            own = decodes[self._band == band]
            more = 1 - np.cumsum(np.bincount(own, minlength=size)) / len(own)
            self._more[band] = np.maximum(more, 0.0)
            self._before[band, 1:] = np.cumsum(self._more[band])[:-1]
            total = self._before[band, -1]
            self._longest[band] = np.searchsorted(self._before[band], (1 - TAIL) * total)

    def longest(self, requests: Index) -> Column:
        return self._longest[self._band[requests]]

    def before(self, requests: Index, count: Column) -> Column:
        band = self._band[requests]
        return self._before[band[:, None], np.minimum(count, self._longest[band][:, None]).astype(np.intp)]

    def more_than(self, requests: Index, count: Column) -> Column:
        band = self._band[requests]
        return self._more[band[:, None], np.minimum(count, self._longest[band][:, None]).astype(np.intp)]

    def total(self, requests: Index) -> Column:
        total: Column = self._before[self._band[requests], -1]
        return total
