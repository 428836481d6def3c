"""What a policy needs to know about the residents, as numpy columns whose constant part is kept between steps.

The sister of `waiting_table`: a resident's prompt, terms and arrival never change while its tokens do, so a step reads
two attributes of each resident and takes the rest from rows entered once.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.batching.state import RequestState

Column = NDArray[np.float64]
_COLUMNS = 5


class ResidentView(msgspec.Struct, frozen=True):
    """Columns of the residents in the order given; seconds and tokens."""

    first_deadline_s: Column
    """Of the first token."""
    tpot_s: Column
    first_gain: Column
    """Of the first token."""
    token_gain: Column
    """Of each further token."""
    prompt: Column
    emitted: Column
    computed: Column


class ResidentTable:
    """Keeps the rows. A request id stands for one request only, as long as the table lives."""

    def __init__(self) -> None:
        self._data = np.empty((_COLUMNS, 0))
        self._rows: dict[str, int] = {}
        self._residents: list[RequestState] = []
        self._constant = self._data

    def view(self, residents: list[RequestState]) -> ResidentView:
        """Columns of `residents`."""
        if residents != self._residents:
            self._constant = self._lookup(residents)
            self._residents = residents
        emitted = np.array([request.emitted_tokens for request in residents], dtype=np.float64)
        computed = np.array([request.computed_tokens for request in residents], dtype=np.float64)
        return ResidentView(*[*self._constant, emitted, computed])

    def _lookup(self, residents: list[RequestState]) -> NDArray[np.float64]:
        rows = self._rows
        missing = [request for request in residents if request.id not in rows]
        if len(rows) + len(missing) > self._data.shape[1]:
            # Full of rows of requests that have left: start over with those that are here.
            rows.clear()
            self._data = np.empty((_COLUMNS, max(64, 4 * len(residents))))
            missing = residents
        for request in missing:
            row = rows[request.id] = len(rows)
            self._data[:, row] = _row(request)
        return self._data[:, [rows[request.id] for request in residents]]


def _row(request: RequestState) -> tuple[float, ...]:
    """In the order of `ResidentView`."""
    terms = request.terms
    objectives = terms.objectives
    return (
        request.arrival_s + objectives.ttft_s,
        objectives.tpot_s,
        terms.weight * terms.first_token_gain,
        terms.weight * terms.output_token_gain,
        request.prompt_tokens,
    )
