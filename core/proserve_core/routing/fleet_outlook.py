"""Outlooks of a whole fleet, and what a request would meet on each engine.

Engines about which nothing new is known keep their outlook; a request sent since only joins its engine's queue.
"""

from collections.abc import Mapping

import numpy as np

from proserve_core.capacity import CapacitySnapshot
from proserve_core.routing.engine_profile import nominal_profile
from proserve_core.routing.gain_left import Column, Number
from proserve_core.routing.outlook import EngineOutlook
from proserve_core.routing.outlook_of_view import add_sent, outlook_of_own_requests, outlook_of_snapshot
from proserve_core.routing.request_worth import COEFFICIENTS, Coefficients, Demand, Worth, coefficients, demand
from proserve_core.routing.state import Dispatched, EngineView, FleetView, RoutingRequest


class FleetOutlook:
    """Keeps the outlooks of a fleet up to date."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._names: list[str] = []
        self.engines: list[EngineOutlook] = []
        """In the order of the view that was last shown."""
        self.coefficients: Coefficients = np.zeros((COEFFICIENTS, 0))
        """A column for each of them."""

    def refresh(self, fleet: FleetView) -> None:
        """Take in what is new; a view's order of engines may change from call to call."""
        names = [view.name for view in fleet.engines]
        anew = names != self._names
        if anew:
            self._names = names
            kept = set(names)
            self._known = {name: known for name, known in self._known.items() if name in kept}
            self.coefficients = np.zeros((COEFFICIENTS, len(names)))
        self.engines = [self._outlook(view, fleet, index, anew=anew) for index, view in enumerate(fleet.engines)]

    def demand(self, request: RoutingRequest, worth: Worth, now_s: float, cached_tokens: Mapping[str, int]) -> Demand:
        """What the request needs of each engine; `cached_tokens` are prompt tokens that engines hold, by name."""
        cached: Number = 0.0
        if cached_tokens:
            cached = np.array([cached_tokens.get(name, 0) for name in self._names], dtype=np.float64)
        return demand(worth, self.coefficients, tokens=request.prompt_tokens - cached, cached=cached, now_s=now_s)

    def ahead_s(self, needs: Demand, now_s: float) -> Column:
        """How long after now each engine could begin it."""
        densities = needs.density.tolist()
        return np.array(
            [engine.ahead_s(density, now_s) for engine, density in zip(self.engines, densities, strict=True)]
        )

    def without_room(self, prompt_tokens: int) -> Column:
        """1 for engines that have no blocks or no sequence slot left for the prompt, else 0."""
        return np.array([0.0 if engine.fits(prompt_tokens) else 1.0 for engine in self.engines])

    def least(self, cost: Column, count: int) -> list[int]:
        """Places of the `count` engines with the least cost, best first; ties go to the name."""
        if count < len(cost):
            places = np.flatnonzero(cost <= np.partition(cost, count - 1)[count - 1]).tolist()
        else:
            places = list(range(len(cost)))
        names = self._names
        return sorted(places, key=lambda place: (cost[place], names[place]))[:count]

    def _outlook(self, view: EngineView, fleet: FleetView, index: int, *, anew: bool) -> EngineOutlook:
        snapshot = view.snapshot
        known = self._known.get(view.name)
        if snapshot is None:
            outlook, changed = outlook_of_own_requests(view, nominal_profile(fleet.engines), fleet.now_s), True
        elif known is None or known.snapshot is not snapshot or known.snapshot_s != view.snapshot_s:
            known = self._known[view.name] = _Known(snapshot, view)
            outlook, changed = known.outlook, True
        else:
            known.catch_up(view)
            outlook, changed = known.outlook, anew
        if changed:
            self.coefficients[:, index] = coefficients(outlook)
        return outlook


class _Known:
    """The outlook of an engine with a snapshot, and which requests sent since are in it."""

    def __init__(self, snapshot: CapacitySnapshot, view: EngineView) -> None:
        self.snapshot = snapshot
        self.snapshot_s = view.snapshot_s
        self.outlook = outlook_of_snapshot(snapshot, view)
        self._added: set[str] = set()
        self._newest: str | None = None
        self.catch_up(view)

    def catch_up(self, view: EngineView) -> None:
        """Add what was sent since."""
        newest = next(reversed(view.dispatched), None)
        if newest == self._newest:
            return
        since: list[Dispatched] = []
        for name, entry in reversed(view.dispatched.items()):
            if name == self._newest:
                break
            if not entry.in_snapshot and name not in self._added:
                since.append(entry)
        self._newest = newest
        for entry in reversed(since):
            self._added.add(entry.request.id)
            # An engine that did not show it in the snapshot had not begun it.
            add_sent(self.outlook, entry, max(entry.sent_s, self.snapshot_s))
