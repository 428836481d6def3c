"""How long outputs will be, as a gateway learns it from the streams that it passes on.

The tables of the engines' own policy (`batching.watched_lengths`), so that both ends rank by the same lengths: by
prompt band, class and limit, by client, by shared beginning. Requests that are still running count with what they have
emitted, so that short outputs, which end first, do not make all look short.
"""

from collections.abc import Mapping

import numpy as np

from proserve_core.batching.length_counts import LengthCounts
from proserve_core.batching.state import RequestState
from proserve_core.batching.watched_lengths import WatchedLengths
from proserve_core.clues import LengthClues
from proserve_core.objectives import ServiceTerms

PROGRESS_S = 1.0
"""How often `progressed` wants to be told; the tables' answers change no sooner."""


class LengthForecast:
    """Keeps a length table informed of this gateway's requests, and asks it."""

    def __init__(self, counts: LengthCounts | None = None) -> None:
        """Start from what was learned earlier, or from nothing."""
        self._table = WatchedLengths(counts)
        self._profiles: dict[str, int] = {}
        self._counted: dict[str, int] = {}
        """Emitted tokens that the table knows of."""

    def arrived(
        self, request_id: str, *, terms: ServiceTerms, prompt_tokens: int, clues: LengthClues, now_s: float
    ) -> float:
        """Expected output tokens of a new request; report its end with `ended`."""
        state = RequestState(id=request_id, arrival_s=now_s, terms=terms, prompt_tokens=prompt_tokens, clues=clues)
        profile = self._profiles[request_id] = self._table.profile(state)
        self._table.refresh(now_s)
        expected = float(self._table.expected_length(np.array([profile]))[0])
        return expected if clues.max_tokens is None else min(expected, float(clues.max_tokens))

    def progressed(self, emitted: Mapping[str, int], now_s: float) -> None:
        """Tokens that running requests have emitted so far; every `PROGRESS_S` is enough."""
        self._count(emitted)
        self._table.refresh(now_s)

    def ended(self, request_id: str, emitted: int, *, complete: bool) -> None:
        """A request is gone; `complete` unless its output was cut off from outside."""
        profile = self._profiles.pop(request_id)
        self._table.saw_more(profile, self._counted.pop(request_id, 0), emitted)
        if complete:
            self._table.saw_end(profile, emitted)
        self._table.left(profile)

    def _count(self, emitted: Mapping[str, int]) -> None:
        moved = {name: tokens for name, tokens in emitted.items() if tokens != self._counted.get(name, 0)}
        if not moved:
            return
        self._table.saw_tokens(
            np.array([self._profiles[name] for name in moved], dtype=np.intp),
            np.array([self._counted.get(name, 0) for name in moved], dtype=np.float64),
            np.array(list(moved.values()), dtype=np.float64),
        )
        self._counted.update(moved)
