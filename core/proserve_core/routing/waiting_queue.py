"""Requests that wait for an engine, in the order in which they should get one.

Source: the central queue of `late-gain` (docs/routing.md). Ranked anew at every tick: of the requests that can still
bring gain, those that can all be in time (`accept_set`) come first, by gain density, then the others, by gain density.
The study's further rule, that more pressing ones go sooner, is left out: it cost 0.3 to 0.8 points here. A request that
can bring nothing any more goes aside and does not come back: it only gets later. Costs are those on the fleet's average
engine; a prompt's predicted prefix hit is taken off.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from proserve_core.admission.tenant_share import TenantShare
from proserve_core.routing.accept_set import accept_set
from proserve_core.routing.gain_left import TPOT_SHARE, Column, gain_left
from proserve_core.routing.request_worth import SHARE, STEP, Coefficients, WorthColumns, demand, worth_of
from proserve_core.routing.set_aside import SetAside
from proserve_core.routing.state import RoutingRequest

LATENESS_SHARE = 0.1
"""A request counts as in time up to a lateness that costs it this share of its tokens."""

_PROMPT, _CACHED, _FULL, _TOKEN_GAIN, _REST, _TPOT, _DEADLINE = range(7)
_FIELDS = 7


class WaitingQueue:
    """Waiting requests, and those put aside."""

    def __init__(self) -> None:
        self._requests: list[RoutingRequest] = []
        self._columns = np.zeros((_FIELDS, 64))
        """One column per entry of `_requests`."""
        self._places: dict[str, int] = {}
        """Of requests in `_requests`, by id."""
        self.tenants = TenantShare()
        """Turns of those that wait."""
        self._lines = np.zeros(64, dtype=np.int64)
        """Hash of the class and tenant of each, in the order of the columns."""
        self.aside = SetAside()
        """Requests that can bring nothing any more."""
        self.order: list[RoutingRequest] = []
        """Of the last ranking, then who arrived since; those that left since are still in it."""
        self.late: list[RoutingRequest] = []
        """Who would be too late for any gain when its turn comes in that order, as of the last ranking."""
        self._densities: dict[str, float] = {}
        """Of the last ranking, by id; only where several tenants of one class wait."""
        self.cut_off = 0.0
        """Least gain density that was in time in the last ranking; 0 where all were."""

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: RoutingRequest) -> bool:
        """Whether this request waits and was not put aside. One that left and came back with the same id, as another
        class, is not the one that left."""
        place = self._places.get(request.id)
        return place is not None and self._requests[place] is request

    def add(self, request: RoutingRequest, cached_tokens: int) -> None:
        """A request arrives; some engine is predicted to hold `cached_tokens` of its prompt."""
        count = len(self._requests)
        if count == self._columns.shape[1]:
            self._columns = np.concatenate((self._columns, np.zeros_like(self._columns)), axis=1)
            self._lines = np.concatenate((self._lines, np.zeros_like(self._lines)))
        worth = worth_of(request)
        self._columns[:, count] = (
            request.prompt_tokens,
            cached_tokens,
            worth.full,
            worth.token_gain,
            worth.rest,
            worth.tpot_s,
            worth.deadline_s,
        )
        self._lines[count] = hash((request.terms.priority_class, request.tenant))
        self.tenants.arrived(request)
        self._places[request.id] = count
        self._requests.append(request)
        self.order.append(request)

    def in_turn(self) -> Iterator[tuple[RoutingRequest, float]]:
        """Who should be bound next: in the order of the last ranking, tenants of a class in turn. Each with how many
        times its own weight gives it the density of the place that it takes."""
        waiting = [request for request in self.order if request in self]
        if not self.tenants.shared:
            return ((request, 1.0) for request in waiting)
        return ((taker, self._times(place, taker)) for place, taker in self.tenants.in_turn(waiting))

    def _times(self, place: RoutingRequest, taker: RoutingRequest) -> float:
        ranked = self._densities
        return ranked[place.id] / ranked[taker.id] if place.id in ranked and taker.id in ranked else 1.0

    def columns(self, requests: Sequence[tuple[RoutingRequest, float]]) -> tuple[Column, WorthColumns]:
        """Prompt tokens and worth of waiting requests, each so many `times` its weight, as columns of shape
        (requests, 1)."""
        values = self._columns[:, [self._places[request.id] for request, _ in requests], None]
        times = np.array([[times] for _, times in requests])
        return values[_PROMPT], WorthColumns(
            values[_FULL] * times, values[_TOKEN_GAIN] * times, values[_REST], values[_TPOT], values[_DEADLINE]
        )

    def remove(self, request_id: str) -> bool:
        """A request leaves; False: it is not here."""
        if self.aside.remove(request_id):
            return True
        place = self._places.pop(request_id, None)
        if place is None:
            return False
        self.tenants.left(self._requests[place])
        last = self._requests.pop()
        if last.id != request_id:
            self._requests[place] = last
            self._places[last.id] = place
            self._columns[:, place] = self._columns[:, len(self._requests)]
            self._lines[place] = self._lines[len(self._requests)]
        return True

    def rank(self, engines: Coefficients, now_s: float) -> None:
        """Put the requests in order for a fleet with these coefficients."""
        if len(self._requests) <= 1:
            self.order, self.late, self.cut_off = list(self._requests), [], 0.0
            return
        average = engines.mean(axis=1, keepdims=True)
        # What not even the engine with the most time for prefills could save is lost.
        average[SHARE] = engines[SHARE].max()
        prompt, cached, full, token_gain, rest, tpot_s, deadline_s = self._columns[:, : len(self._requests)]
        worth = WorthColumns(full, token_gain, rest, tpot_s, deadline_s)
        needs = demand(worth, average, tokens=prompt - cached, cached=cached, now_s=now_s)
        places = np.flatnonzero(needs.value > 0)
        density = needs.density[places]
        work_s = needs.prefill_s[places] / engines[SHARE].sum()
        catch_up_s = tpot_s - np.minimum(average[STEP, 0], TPOT_SHARE * tpot_s)
        due_in_s = (deadline_s - now_s + LATENESS_SHARE * rest * catch_up_s)[places]
        accepted = accept_set(work_s=work_s, due_in_s=due_in_s, density=density)
        self.cut_off = 0.0 if accepted.all() or not accepted.any() else float(density[accepted].min())
        self._densities = {}
        if self.tenants.shared:
            ids = [self._requests[place].id for place in places.tolist()]
            self._densities = dict(zip(ids, density.tolist(), strict=True))
        turns = np.lexsort((-density, ~accepted))
        order = places[turns]
        begin_s = np.cumsum(work_s[turns]) - work_s[turns]
        at_its_turn = gain_left(
            now_s + begin_s + needs.ready_s[order] - deadline_s[order],
            full=full[order],
            token_gain=token_gain[order],
            rest=rest[order],
            tpot_s=tpot_s[order],
            step_s=average[STEP, 0],
        )
        self.late = [self._requests[place] for place in order[at_its_turn <= 0].tolist()]
        self.order = [self._requests[place] for place in order.tolist()]
        lost = [self._requests[place] for place in np.flatnonzero(needs.value <= 0).tolist()]
        for request in lost:
            self.put_aside(request)

    def weakest(self, engines: Coefficients, now_s: float, of: tuple[str, str] | None = None) -> RoutingRequest:
        """Who brings least, of all or of a class and tenant with requests here: somebody put aside, or the one with the
        least gain per second of engine time."""
        if of is not None and (found := self.aside.weakest_of(*of)) is not None:
            return found
        if of is None and len(self.aside):
            return self.aside.weakest()
        columns = self._columns[:, : len(self._requests)]
        if of is not None:
            places = np.flatnonzero(self._lines[: len(self._requests)] == hash(of))
            columns = columns[:, places]
        prompt, cached, *worth = columns
        average = engines.mean(axis=1, keepdims=True)
        needs = demand(WorthColumns(*worth), average, tokens=prompt - cached, cached=cached, now_s=now_s)
        least = int(needs.density.argmin())
        return self._requests[least if of is None else places[least]]

    def put_aside(self, request: RoutingRequest) -> None:
        """A waiting request can bring nothing any more."""
        self.remove(request.id)
        self.aside.add(request)
