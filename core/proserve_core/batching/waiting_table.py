"""What a policy needs to know about the waiting requests, as numpy columns that are kept between steps.

A waiting request does not change until it is admitted, while there may be thousands of them and a step is planned every
few milliseconds: reading each of them anew takes longer than all the rest of the plan. A row is entered when a request
is first seen waiting and dropped when it is seen resident, because running changes a request; in between a step costs
one dictionary look-up per waiting request, or none when the same ones wait as in the step before.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.batching.state import RequestState
from proserve_core.latency import LatencyModel

Column = NDArray[np.float64]
_COLUMNS = 11
_COMPUTED = 10


class WaitingView(msgspec.Struct, frozen=True):
    """Columns of the requests that wait in this step, in the order given; seconds and tokens."""

    deadline_s: Column
    """Of the next token (TDG)."""
    first_token_deadline_s: Column
    """Of the next token, counted from the first token's real time once there is one."""
    arrival_s: Column
    pending: Column
    attention: Column
    """p^2 + 2*p*x of all that is pending."""
    gain: Column
    """Of the next token."""
    token_gain: Column
    """Of each token after the first."""
    ttft_s: Column
    tpot_s: Column
    emitted: Column
    computed: Column

    def est_s(self, latency: LatencyModel) -> Column:
        """Marginal time of all that is pending: `LatencyModel.prefill_s` by column."""
        return latency.linear_token_s * self.pending + latency.attention_s * self.attention + latency.sequence_s


class WaitingTable:
    """Keeps the rows. A request id stands for one request only, as long as the table lives."""

    def __init__(self) -> None:
        self._data = np.empty((_COLUMNS, 0))
        self._rows: dict[str, int] = {}
        self._used = 0
        self._waiting: list[RequestState] = []
        self._computed: list[int] = []
        self._view = WaitingView(*self._data)

    def clear(self) -> None:
        """Nobody waits: forget all rows."""
        if self._used:
            self._rows.clear()
            self._used = 0
            self._waiting, self._computed = [], []

    def view(self, *, waiting: list[RequestState], residents: Sequence[RequestState]) -> WaitingView:
        """Columns of `waiting`."""
        rows = self._rows
        if rows:
            for request in residents:
                rows.pop(request.id, None)
        # The one thing that may change while a request waits: a cached prefix becomes known.
        computed = [request.computed_tokens for request in waiting]
        if computed == self._computed and waiting == self._waiting:
            return self._view
        found = list(map(rows.get, [request.id for request in waiting]))
        missing = [position for position, row in enumerate(found) if row is None] if None in found else []
        if self._used + len(missing) > self._data.shape[1]:
            rows.clear()
            self._used = 0
            self._data = np.empty((_COLUMNS, max(256, 4 * len(waiting))))
            missing = list(range(len(waiting)))
        for position in missing:
            found[position] = self._enter(waiting[position])
        index = np.array(found, dtype=np.intp)
        changed = np.flatnonzero(self._data[_COMPUTED, index] != computed)
        for position in changed.tolist():
            self._data[:, index[position]] = _row(waiting[position])
        self._waiting, self._computed = waiting, computed
        self._view = WaitingView(*self._data[:, index])
        return self._view

    def _enter(self, request: RequestState) -> int:
        row = self._used
        self._used += 1
        self._data[:, row] = _row(request)
        self._rows[request.id] = row
        return row


def _row(request: RequestState) -> tuple[float, ...]:
    """In the order of `WaitingView`."""
    pending, computed, emitted = request.pending_tokens, request.computed_tokens, request.emitted_tokens
    objectives, first_token_s, deadline_s = request.terms.objectives, request.first_token_s, request.next_deadline_s()
    return (
        deadline_s,
        deadline_s if first_token_s is None else first_token_s + emitted * objectives.tpot_s,
        request.arrival_s,
        pending,
        pending * (pending + 2 * computed),
        request.next_token_gain(),
        request.terms.weight * request.terms.output_token_gain,
        objectives.ttft_s,
        objectives.tpot_s,
        emitted,
        computed,
    )
