"""Follows requests for a length table: which kind each is of, what they have emitted, how they end.

Running requests are counted once a second and some at a time, so that no plan takes long because of it.
"""

from collections.abc import Sequence

import numpy as np

from proserve_core.batching.length_counts import LengthCounts
from proserve_core.batching.output_bins import Index
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.state import RequestState
from proserve_core.batching.watched_lengths import WatchedLengths

_PART = 128


class LengthObserver:
    """Keeps a `LengthTable` informed."""

    def __init__(self, counts: LengthCounts | None = None) -> None:
        self.table = WatchedLengths(counts)
        self._profiles: dict[str, int] = {}
        self._counted: dict[str, int] = {}
        """Emitted tokens that the table knows of."""
        self._uncounted: list[RequestState] = []
        self.arrived: Index = np.empty(0, dtype=np.intp)
        """Entries of those that `profiles` saw for the first time when it was last asked."""

    def profiles(self, columns: RequestColumns) -> Index:
        """The table's profile of each request; kept in the columns' notes."""
        profiles = columns.notes(self).astype(np.intp)
        new = self.arrived = (profiles < 0).nonzero()[0]
        if len(new):
            profiles[new] = [self._profile(request) for request in columns.requests(new)]
            columns.note(new, profiles[new])
        return profiles

    def observe(self, residents: Sequence[RequestState], now_s: float) -> None:
        """Learn from what runs, and bring the table's answers up to date."""
        if self.table.due(now_s):
            self._uncounted = [request for request in residents if request.emitted_tokens]
        if self._uncounted:
            part, self._uncounted = self._uncounted[:_PART], self._uncounted[_PART:]
            self._count([request for request in part if request.id in self._profiles])
        self.table.refresh(now_s)

    def ended(self, request: RequestState, *, finished: bool) -> None:
        """The request has left; its output is complete if `finished`."""
        profile = self._profile(request)
        self.table.saw_more(profile, self._counted.pop(request.id, 0), request.emitted_tokens)
        del self._profiles[request.id]
        if finished:
            self.table.saw_end(profile, request.emitted_tokens)
        self.table.left(profile)

    def _profile(self, request: RequestState) -> int:
        profile = self._profiles.get(request.id)
        if profile is None:
            profile = self._profiles[request.id] = self.table.profile(request)
        return profile

    def _count(self, requests: list[RequestState]) -> None:
        since, until, profiles = [], [], []
        for request in requests:
            request_id, emitted = request.id, request.emitted_tokens
            since.append(self._counted.get(request_id, 0))
            until.append(emitted)
            profiles.append(self._profiles[request_id])
            self._counted[request_id] = emitted
        self.table.saw_tokens(np.array(profiles, dtype=np.intp), np.array(since, float), np.array(until, float))
