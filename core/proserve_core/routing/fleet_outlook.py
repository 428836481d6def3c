"""Outlooks of a whole fleet, and what requests would meet on each engine.

Engines about which nothing new is known keep their outlook; a request sent since only joins its engine's queue. What
decisions ask of all engines is kept in columns, and their queues as rows of one table, so that a decision costs some
operations on arrays, however many engines there are.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from proserve_core.routing.engine_profile import EngineProfile, nominal_profile
from proserve_core.routing.gain_left import Column, Number
from proserve_core.routing.outlook import STEP_SHARE, EngineOutlook
from proserve_core.routing.outlook_of_view import add_sent, outlook_of_own_requests, outlook_of_snapshot
from proserve_core.routing.request_worth import Coefficients, Demand, Worth, WorthColumns, coefficients, demand
from proserve_core.routing.state import Dispatched, EngineView, FleetView, RoutingRequest

LOAD, RANKS, FREE_BLOCKS, BLOCKS, BLOCK_SIZE, FREE_SEQUENCES, AT, STEP_END, AGE_FROM = range(8, 17)
DECODES, BESIDE, FREE_AT, NEXT_DUE = range(17, 21)
"""Rows that follow those of `request_worth`. `LOAD` is decodes' share of time, those of queued requests included;
`DECODES` is the time of a token of each of them, `BESIDE` that of a step with those that run and no prompt. `FREE_AT`
is when an engine that does not rank has computed what is queued, `NEXT_DUE` the first deadline of a decode that prompts
make wait."""
_ROWS = 21
_TIMES = [[AT], [STEP_END], [AGE_FROM]]
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
        self._unseen: set[int] = set()
        """Places of engines without a snapshot."""
        self._nominal: EngineProfile | None = None
        """What stands for them, as of this refresh."""

    def refresh(self, fleet: FleetView) -> None:
        """Take in what is new; a view's order of engines may change from call to call."""
        self._nominal = None
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
                or not known.is_of(view, fleet.now_s)
                or known.newest != next(reversed(view.dispatched), None)
            ):
                self._look(view, fleet, index, anew=anew)
        if self._unseen:
            # What they have begun shows in first tokens only, so no time passes for their queues.
            self.table[_TIMES, list(self._unseen)] = fleet.now_s

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
        self._unseen = set()

    def _look(self, view: EngineView, fleet: FleetView, index: int, *, anew: bool) -> None:
        snapshot = view.snapshot
        known = self._known.get(view.name)
        if known is None or not known.is_of(view, fleet.now_s):
            if snapshot is None:
                profile = self._nominal = self._nominal or nominal_profile(fleet.engines)
                known = _Known(view, outlook_of_own_requests(view, profile, fleet.now_s), fleet.now_s)
            else:
                known = _Known(view, outlook_of_snapshot(snapshot, view), fleet.now_s)
                known.catch_up(view, fleet.now_s)
            self._known[view.name] = known
        elif not known.catch_up(view, fleet.now_s) and not anew:
            return
        if snapshot is None:
            self._unseen.add(index)
        else:
            self._unseen.discard(index)
        outlook = known.outlook
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
            outlook.decodes_s + sum([item.load * item.tpot_s for item in outlook.queue]),
            outlook.decodes_s + outlook.profile.latency.constant_s / STEP_SHARE,
            outlook.free_at_s,
            math.inf if outlook.decodes is None else outlook.decodes.due_s.min(),
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
    """The outlook of an engine as of some view of it, and which requests sent since are in it."""

    def __init__(self, view: EngineView, outlook: EngineOutlook, now_s: float) -> None:
        self.snapshot = view.snapshot
        self.snapshot_s = view.snapshot_s
        self.revision = view.revision
        self.outlook = outlook
        self._added: set[str] = set()
        self.newest: str | None = None
        self._good_until_s = math.inf
        if view.snapshot is None:
            # The outlook has all of them.
            self.newest = next(reversed(view.dispatched), None)
            self._good_until_s = min(
                [e.begun_s for e in view.dispatched.values() if e.begun_s > now_s], default=math.inf
            )

    def is_of(self, view: EngineView, now_s: float) -> bool:
        """Whether the view shows nothing else than more requests sent."""
        if self.snapshot is None:
            return view.snapshot is None and self.revision == view.revision and now_s < self._good_until_s
        return self.snapshot is view.snapshot and self.snapshot_s == view.snapshot_s

    def catch_up(self, view: EngineView, now_s: float) -> bool:
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
            if self.snapshot is None:
                self.outlook.at_s = now_s
                self._good_until_s = min(self._good_until_s, entry.begun_s)
                add_sent(self.outlook, entry, now_s)
            else:
                # An engine that did not show it in the snapshot had not begun it.
                add_sent(self.outlook, entry, max(entry.sent_s, self.snapshot_s))
        return bool(since)
