"""The requests of an engine: an object each, in order of arrival, and the same as numpy columns.

Whoever runs the engine keeps one table for its whole life; policies read it. A step is planned every few milliseconds
while thousands may wait, so a plan must not touch each of them: a row is written when a request arrives and again when
it is admitted or preempted, and a step costs a few operations on columns, however many wait. Only what changes in every
step, the residents' tokens, is read from the objects when columns are asked for.

Rows are in order of arrival. A row of a request that has left stays empty until the table is full; then the rows move
together, in a table that is twice as large if more than half of them are in use.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import TYPE_CHECKING, cast, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from proserve_core.batching.state import RequestState

Column = NDArray[np.float64]
Index = NDArray[np.intp]

ARRIVAL, TTFT, TPOT, WEIGHT, FIRST_GAIN, TOKEN_GAIN, PROMPT, MOST, EMITTED, COMPUTED, FIRST_TOKEN, NOTE = range(12)
"""Columns: seconds, gain and tokens; `MOST` is the output's limit (infinite if there is none), a first token that has
not come is NaN. `NOTE` is the policy's own, see `notes`."""
_COLUMNS = 12
_FIRST_ROWS = 64
_EMPTY, _WAITING, _RESIDENT, _HIDDEN = range(4)


class RequestTable(Sequence["RequestState"]):
    """Requests in order of arrival at the engine.

    After a change to a request, other than of a resident's tokens and blocks, call `update`.
    """

    def __init__(self, requests: Iterable["RequestState"] = ()) -> None:
        self.by_id: dict[str, RequestState] = {}
        """All requests, hidden ones too, in order of arrival."""
        self._rows: dict[str, int] = {}
        self._objects: list[RequestState | None] = []
        self._data = np.zeros((_COLUMNS, _FIRST_ROWS))
        self._host_tokens = np.zeros(_FIRST_ROWS)
        self._place = np.zeros(_FIRST_ROWS, dtype=np.int8)
        self._hidden: set[str] = set()
        self._noted_by: object = None
        self._visible: list[RequestState] | None = None
        self._residents: list[RequestState] | None = None
        self._resident_rows: Index | None = None
        self._order: Index | None = None
        for request in requests:
            self.add(request)

    def add(self, request: "RequestState") -> None:
        """A request arrives; its id is new."""
        if len(self._objects) == len(self._place):
            self._make_room()
        self.by_id[request.id] = request
        self._rows[request.id] = len(self._objects)
        self._data[NOTE, len(self._objects)] = -1
        self._objects.append(request)
        self.update(request)

    def update(self, request: "RequestState") -> None:
        """The request was admitted or preempted, got its first token, or changed while it waited."""
        row = self._rows[request.id]
        self._hidden.discard(request.id)
        terms = request.terms
        objectives, most = terms.objectives, request.clues.max_tokens
        self._data[:NOTE, row] = (
            request.arrival_s,
            objectives.ttft_s,
            objectives.tpot_s,
            terms.weight,
            terms.weight * terms.first_token_gain,
            terms.weight * terms.output_token_gain,
            request.prompt_tokens,
            np.inf if most is None else most,
            request.emitted_tokens,
            request.computed_tokens,
            np.nan if request.first_token_s is None else request.first_token_s,
        )
        self._host_tokens[row] = 0 if request.resident else request.host_tokens
        self._put(row, _RESIDENT if request.resident else _WAITING)

    def remove(self, request_id: str) -> "RequestState":
        """A request leaves."""
        row = self._rows.pop(request_id)
        self._hidden.discard(request_id)
        self._objects[row] = None
        self._put(row, _EMPTY)
        return self.by_id.pop(request_id)

    def hide(self, request_ids: Set[str]) -> None:
        """Requests that the policy must not see in the coming step; those hidden before are seen again."""
        if not request_ids and not self._hidden:
            return
        for request_id in list(self._hidden):
            self.update(self.by_id[request_id])
        for request_id in request_ids:
            self._put(self._rows[request_id], _HIDDEN)
        self._hidden = set(request_ids)
        self._visible = None

    def sees(self, request_id: str) -> bool:
        """Whether the policy sees the request: it is here and not hidden."""
        return request_id in self.by_id and request_id not in self._hidden

    @property
    def residents(self) -> "list[RequestState]":
        """Those that hold a sequence slot, in order of arrival. Not to be changed."""
        if self._residents is None:
            objects = self._objects
            found = [objects[row] for row in self._rows_of_residents().tolist()]
            self._residents = cast("list[RequestState]", found)
        return self._residents

    @property
    def waiting(self) -> "Iterator[RequestState]":
        """The others, in order of arrival, looked up only as far as they are read."""
        yield from map(self.at, (self._place == _WAITING).nonzero()[0].tolist())

    def row(self, request_id: str) -> int:
        """Row of a request, larger for later arrivals."""
        return self._rows[request_id]

    def rows(self) -> Index:
        """Rows of the residents, then of the waiting, each in order of arrival. They hold until the next change."""
        if self._order is None:
            waiting = (self._place == _WAITING).nonzero()[0]
            self._order = np.concatenate((self._rows_of_residents(), waiting))
        return self._order

    def columns(self, rows: Index) -> NDArray[np.float64]:
        """The columns of `rows()`, one row of the result each."""
        residents = self.residents
        at = rows[: len(residents)]
        self._data[EMITTED, at] = np.array([request.emitted_tokens for request in residents], dtype=np.float64)
        self._data[COMPUTED, at] = np.array([request.computed_tokens for request in residents], dtype=np.float64)
        # The rows are there; numpy's check of them is half of it in a loop, a tenth between two steps of an engine.
        return self._data.take(rows, axis=1, mode="clip")

    def host_tokens(self, rows: Index) -> Column:
        """Tokens that would come back from the host if these requests ran."""
        return self._host_tokens.take(rows)

    def column(self, number: int, rows: Index) -> Column:
        """One column of rows; of residents, tokens are as `columns` last found them."""
        found: Column = self._data[number].take(rows, mode="clip")
        return found

    def notes(self, rows: Index, owner: object) -> Column:
        """What `owner` noted of these requests, -1 for nothing. There is one owner at a time."""
        if self._noted_by is not owner:
            self._noted_by = owner
            self._data[NOTE] = -1
        found: Column = self._data[NOTE, rows]
        return found

    def note(self, rows: Index, values: Index | int) -> None:
        """Numbers that the owner of the notes finds again as long as these requests are here."""
        self._data[NOTE, rows] = values

    def at(self, row: int) -> "RequestState":
        """The request in a row."""
        request = self._objects[row]
        if request is None:
            raise LookupError(f"row {row} is empty: the table has changed since rows() was called")
        return request

    def requests(self, rows: Index) -> "list[RequestState]":
        """The requests in some rows."""
        objects = self._objects
        requests = [objects[row] for row in rows.tolist()]
        if not all(requests):
            raise LookupError("a row is empty: the table has changed since rows() was called")
        return cast("list[RequestState]", requests)

    def __len__(self) -> int:
        return len(self.by_id) - len(self._hidden)

    def __iter__(self) -> "Iterator[RequestState]":
        return iter(self._all())

    @overload
    def __getitem__(self, place: int) -> "RequestState": ...
    @overload
    def __getitem__(self, place: slice) -> "Sequence[RequestState]": ...
    def __getitem__(self, place: int | slice) -> "RequestState | Sequence[RequestState]":
        return self._all()[place]

    def _all(self) -> "list[RequestState]":
        if self._visible is None:
            hidden, by_id = self._hidden, self.by_id
            self._visible = [by_id[i] for i in by_id if i not in hidden] if hidden else list(by_id.values())
        return self._visible

    def _rows_of_residents(self) -> Index:
        if self._resident_rows is None:
            self._resident_rows = (self._place == _RESIDENT).nonzero()[0]
        return self._resident_rows

    def _put(self, row: int, place: int) -> None:
        """Change a row's place; what was looked up and holds no longer is forgotten."""
        before = self._place[row]
        if before == place:
            return
        self._place[row] = place
        self._visible = self._order = None
        if _RESIDENT in (before, place):
            self._residents = self._resident_rows = None

    def _make_room(self) -> None:
        """Close the gaps; take more rows unless that leaves half of them free."""
        keep = np.flatnonzero(self._place != _EMPTY)
        capacity = len(self._place)
        if 2 * len(keep) > capacity:
            capacity *= 2
        data, place = np.zeros((_COLUMNS, capacity)), np.zeros(capacity, dtype=np.int8)
        host_tokens = np.zeros(capacity)
        data[:, : len(keep)] = self._data[:, keep]
        host_tokens[: len(keep)] = self._host_tokens[keep]
        place[: len(keep)] = self._place[keep]
        self._data, self._host_tokens, self._place = data, host_tokens, place
        self._objects = list(self.by_id.values())
        self._rows = {request_id: row for row, request_id in enumerate(self.by_id)}
        self._resident_rows = self._order = None
