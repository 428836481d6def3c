"""Outlooks of a whole fleet, and what requests would meet on each engine.

Engines about which nothing new is known keep their outlook; a request sent since only joins its engine's queue. What
decisions ask of all engines is kept in columns, and their queues as rows of one table, so that a decision costs some
operations on arrays, however many engines there are.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from proserve_core.capacity import CapacitySnapshot
from proserve_core.routing.engine_profile import nominal_profile
from proserve_core.routing.gain_left import Column, Number
from proserve_core.routing.outlook import EngineOutlook
from proserve_core.routing.outlook_of_view import add_sent, outlook_of_own_requests, outlook_of_snapshot
from proserve_core.routing.request_worth import Coefficients, Demand, Worth, WorthColumns, coefficients, demand
from proserve_core.routing.state import Dispatched, EngineView, FleetView, RoutingRequest

LOAD, RANKS, FREE_BLOCKS, BLOCKS, BLOCK_SIZE, FREE_SEQUENCES, AT, STEP_END, AGE_FROM = range(8, 17)
"""Rows that follow those of `request_worth`. `LOAD` is decodes' share of time, those of queued requests included."""
_ROWS = 17
_FIRST_QUEUE = 8


class Meeting(msgspec.Struct, frozen=True, gc=False):
    """Requests on engines: one entry per engine, or a row of them per request."""

    needs: Demand
    queued_s: Column
    """How long after now those of the engine's queue that come first are done."""
    ahead_s: Column
    """How long after now the prefill could begin: after them, and not before the running step ends."""

    def row(self, request: int) -> "Meeting":
        """Of one of several requests."""
        return Meeting(self.needs.row(request), self.queued_s[request], self.ahead_s[request])


class FleetOutlook:
    """Keeps the outlooks of a fleet up to date."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._at: list[_Known | None] = []
        """By place in the view."""
        self.names: list[str] = []
        self.engines: list[EngineOutlook] = []
        """In the order of the view that was last shown."""
        self.table: Coefficients = np.zeros((_ROWS, 0))
        """A column for each of them."""
        self._keys = np.zeros((0, _FIRST_QUEUE))
        """By engine: negative densities of its queue, first served first; `inf` behind the last."""
        self._sums_s = np.zeros((0, _FIRST_QUEUE + 1))
        """By engine: time that its first so many take."""
        self._rows = np.zeros(0, dtype=np.intp)

    def refresh(self, fleet: FleetView) -> None:
        """Take in what is new; a view's order of engines may change from call to call."""
        names = [view.name for view in fleet.engines]
        anew = names != self.names
        if anew:
            self._begin(names)
        for index, view in enumerate(fleet.engines):
            known = self._at[index]
            # Nothing is new of most engines, so that is found out here.
            if (
                anew
                or known is None
                or known.snapshot is not view.snapshot
                or known.snapshot_s != view.snapshot_s
                or known.newest != next(reversed(view.dispatched), None)
            ):
                self._look(view, fleet, index, anew=anew)

    def sent(self, fleet: FleetView, place: int) -> None:
        """A request went to the engine at this place since `refresh`, and nothing else happened."""
        self._look(fleet.engines[place], fleet, place, anew=False)

    def meet(self, worth: Worth | WorthColumns, *, prompt_tokens: Number, cached: Number, now_s: float) -> Meeting:
        """What requests would meet; for several, all arguments but the time are columns of shape (requests, 1)."""
        needs = demand(worth, self.table, tokens=prompt_tokens - cached, cached=cached, now_s=now_s)
        served_first = (self._keys <= -needs.density[..., None]).sum(axis=-1)
        queued_s = self._sums_s[self._rows, served_first] + (self.table[AT] - now_s)
        return Meeting(needs, queued_s, np.maximum(np.maximum(queued_s, self.table[STEP_END] - now_s), 0.0))

    def cached(self, hits: Sequence[Mapping[str, int]]) -> Column:
        """Prompt tokens that engines hold, a row per request; `hits` are they by name."""
        return np.array([[hit.get(name, 0) for name in self.names] if hit else [0] * len(self.names) for hit in hits])

    def without_room(self, prompt_tokens: int) -> Column:
        """1 for engines that have no blocks or no sequence slot left for the prompt, else 0."""
        table = self.table
        blocks = np.ceil((prompt_tokens + 1) / table[BLOCK_SIZE])
        room = (table[FREE_SEQUENCES] > 0) & (blocks <= table[FREE_BLOCKS])
        return np.where(room, 0.0, 1.0)

    def kv_share(self, prompt_tokens: Number) -> Column:
        """Part of each KV cache that is taken once a prompt has come."""
        table = self.table
        taken = table[BLOCKS] - table[FREE_BLOCKS] + np.ceil((prompt_tokens + 1) / table[BLOCK_SIZE])
        share: Column = taken / np.maximum(1.0, table[BLOCKS])
        return share

    def least(self, cost: Column, count: int) -> list[int]:
        """Places of the `count` engines with the least cost, best first; ties go to the name."""
        if count < len(cost):
            places = np.flatnonzero(cost <= np.partition(cost, count - 1)[count - 1]).tolist()
        else:
            places = list(range(len(cost)))
        costs, names = cost.tolist(), self.names
        return sorted(places, key=lambda place: (costs[place], names[place]))[:count]

    def _begin(self, names: list[str]) -> None:
        self.names = names
        kept = set(names)
        self._known = {name: known for name, known in self._known.items() if name in kept}
        self.engines = []
        self._at = [None] * len(names)
        self.table = np.zeros((_ROWS, len(names)))
        self._keys = np.zeros((len(names), _FIRST_QUEUE))
        self._sums_s = np.zeros((len(names), _FIRST_QUEUE + 1))
        self._rows = np.arange(len(names))

    def _look(self, view: EngineView, fleet: FleetView, index: int, *, anew: bool) -> None:
        snapshot = view.snapshot
        known = self._known.get(view.name)
        if snapshot is None:
            outlook, known = outlook_of_own_requests(view, nominal_profile(fleet.engines), fleet.now_s), None
        elif known is None or known.snapshot is not snapshot or known.snapshot_s != view.snapshot_s:
            known = self._known[view.name] = _Known(snapshot, view)
            outlook = known.outlook
        elif known.catch_up(view) or anew:
            outlook = known.outlook
        else:
            return
        self.engines[index : index + 1] = [outlook]
        self._at[index] = known
        self.table[:, index] = (
            *coefficients(outlook),
            outlook.load + outlook.queued_load,
            outlook.ranks,
            outlook.free_blocks,
            outlook.profile.blocks,
            outlook.profile.block_size or 1,
            outlook.free_sequences,
            outlook.at_s,
            outlook.step_end_s,
            outlook.age_from_s,
        )
        count = len(outlook.queue)
        if count > self._keys.shape[1]:
            more = ((0, 0), (0, max(count, 2 * self._keys.shape[1]) - self._keys.shape[1]))
            self._keys = np.pad(self._keys, more, constant_values=np.inf)
            self._sums_s = np.pad(self._sums_s, more)
        self._keys[index, :count] = outlook.keys if outlook.ranks else -np.inf
        self._keys[index, count:] = np.inf
        self._sums_s[index, : count + 1] = outlook.sums_s


def meet_one(outlook: FleetOutlook, request: RoutingRequest, worth: Worth, now_s: float) -> Meeting:
    """What one request would meet on each engine, with the hits that it knows of."""
    hits = request.cached_tokens
    cached = outlook.cached([hits])[0] if hits else 0.0
    return outlook.meet(worth, prompt_tokens=request.prompt_tokens, cached=cached, now_s=now_s)


class _Known:
    """The outlook of an engine with a snapshot, and which requests sent since are in it."""

    def __init__(self, snapshot: CapacitySnapshot, view: EngineView) -> None:
        self.snapshot = snapshot
        self.snapshot_s = view.snapshot_s
        self.outlook = outlook_of_snapshot(snapshot, view)
        self._added: set[str] = set()
        self.newest: str | None = None
        self.catch_up(view)

    def catch_up(self, view: EngineView) -> bool:
        """Add what was sent since; returns whether there was any."""
        newest = next(reversed(view.dispatched), None)
        if newest == self.newest:
            return False
        since: list[Dispatched] = []
        for name, entry in reversed(view.dispatched.items()):
            if name == self.newest:
                break
            if not entry.in_snapshot and name not in self._added:
                since.append(entry)
        self.newest = newest
        for entry in reversed(since):
            self._added.add(entry.request.id)
            # An engine that did not show it in the snapshot had not begun it.
            add_sent(self.outlook, entry, max(entry.sent_s, self.snapshot_s))
        return bool(since)
