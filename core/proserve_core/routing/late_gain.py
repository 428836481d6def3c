"""`late-gain`: requests wait at the gateway in gain order, and each is bound to an engine when one has room for it.

Source: our own study of routing (docs/routing.md): the order of work matters far more than the choice of engine, and an
engine that is given no more than it will do next cannot order it wrongly. The queue is `waiting_queue`. An engine has
room for a request while less than `DEPTH_S` of prefills, and as much as its snapshot is old, would be served before it;
among engines with room the best one has the least of: time until the first token, a tie-break for decode load, and one
TTFT for each part of the request's gain that others would lose there (`displaced_gain`, asked of the `FINALISTS`
nearest).

Where prompts are most of the work (`DEAR_PREFILL`), recomputing after a preemption is dear, and an engine whose KV
cache the prompt would fill beyond `KV_SHARE` has no room; elsewhere holding requests back costs more than preemptions.

Requests that can bring nothing any more go to engines with nothing to do, oldest first; as a floor, so that every class
makes progress in any overload, they get `FLOOR_SHARE` of all engine time handed out. Parameters are times of engines'
work or shares, none belongs to a trace.
"""

from collections.abc import Iterator

import numpy as np

from proserve_core.routing.displaced_gain import FULL_LOAD, displaced_gain
from proserve_core.routing.fleet_outlook import FleetOutlook
from proserve_core.routing.go_full import FINALISTS
from proserve_core.routing.min_ahead import LOAD_S, NO_ROOM_S
from proserve_core.routing.outlook import EngineOutlook
from proserve_core.routing.prefix_map import PrefixMap
from proserve_core.routing.request_worth import worth_of
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest
from proserve_core.routing.waiting_queue import WaitingQueue
from proserve_core.routing.waiting_room import Binding, remember_prefix

DEPTH_S = 0.3
"""One to two full prefill steps: less leaves engines idle between decisions, from 0.1 to 0.4 s it is all the same."""
TICK_S = 0.005
MISSES = 8
"""So many requests in a row without an engine that has room end a round."""
DEAR_PREFILL = 0.3
KV_SHARE = 0.97
REST_LOAD = 0.6
"""With nothing queued, less decode load than this and `REST_KV_SHARE` of its KV cache taken, an engine is at rest."""
REST_KV_SHARE = 0.7
FLOOR_SHARE = 0.01


class LateGain:
    """Late binding in gain order."""

    tick_s: float | None = TICK_S

    def __init__(self) -> None:
        self._outlook = FleetOutlook()
        self._queue = WaitingQueue()
        self._prefixes = PrefixMap()
        self._arrived = False
        """Since the last ranking."""
        self._ranked_s = -np.inf
        self._floor_s = 0.0
        """Engine time that requests put aside are owed."""

    def __len__(self) -> int:
        return len(self._queue) + len(self._queue.aside)

    def arrived(self, request: RoutingRequest) -> None:
        self._queue.add(request, max(self._hits(request).values(), default=0))
        self._arrived = True

    def left(self, request_id: str) -> bool:
        return self._queue.remove(request_id)

    def bind(self, fleet: FleetView) -> Iterator[Binding]:
        if not len(self):
            return
        outlook, queue, now_s = self._outlook, self._queue, fleet.now_s
        outlook.refresh(fleet)
        if self._arrived or now_s - self._ranked_s >= TICK_S:
            queue.rank(outlook.coefficients, now_s)
            self._arrived, self._ranked_s = False, now_s
        misses = 0
        for request in queue.order:
            if request.id not in queue:
                continue
            binding = self._place(request, fleet)
            if binding is None:
                misses += 1
                if misses == MISSES:
                    break
                continue
            yield binding
            outlook.refresh(fleet)
        yield from self._bind_aside(fleet)

    def _place(self, request: RoutingRequest, fleet: FleetView) -> Binding | None:
        """Bind the request if any engine has room for it."""
        outlook, now_s = self._outlook, fleet.now_s
        engines = outlook.engines
        worth, hits = worth_of(request), self._hits(request)
        needs = outlook.demand(request, worth, now_s, hits)
        density = needs.density
        least = np.array([engine.least_density(_depth_s(engine, now_s), now_s) for engine in engines])
        room = density > least
        if self._queue.prefill_share > DEAR_PREFILL:
            room &= np.array([_kv_share(engine, request.prompt_tokens) <= KV_SHARE for engine in engines])
        load = np.array([engine.load + engine.queued_load for engine in engines])
        stock = np.array([not engine.ranks for engine in engines])
        room &= ~stock | (load <= FULL_LOAD * (1 - self._queue.prefill_share))
        if not room.any():
            return None
        ahead_s = outlook.ahead_s(needs, now_s)
        cost_s = ahead_s + needs.ready_s + LOAD_S * (load + needs.load) + np.where(room, 0.0, NO_ROOM_S)
        finalists = [place for place in outlook.least(cost_s, FINALISTS) if room[place]]
        ttft_s = request.terms.objectives.ttft_s
        lost = [displaced_gain(worth, engines[place], needs, place, request.prompt_tokens) for place in finalists]
        costs_s = [
            cost_s[place] + ttft_s * gain / max(needs.value[place], 1e-12)
            for place, gain in zip(finalists, lost, strict=True)
        ]
        chosen = costs_s.index(min(costs_s))
        best = finalists[chosen]
        return self._binding(
            request,
            fleet,
            RouteDecision(
                engine=engines[best].name,
                reason="least time and gain lost by others among engines with room",
                expected_ttft_s=float(now_s + ahead_s[best] + needs.ready_s[best]) - request.arrival_s,
                expected_gain=float(needs.value[best]) - lost[chosen],
                candidates=tuple([engines[place].name for place in finalists]),
            ),
            hits.get(engines[best].name, 0),
            float(needs.cost_s[best]),
        )

    def _bind_aside(self, fleet: FleetView) -> Iterator[Binding]:
        """Requests that can bring nothing any more."""
        outlook, queue, now_s = self._outlook, self._queue, fleet.now_s
        while queue.aside:
            request = next(iter(queue.aside.values()))
            engines = outlook.engines
            hits = self._hits(request)
            needs = outlook.demand(request, worth_of(request), now_s, hits)
            cost_s = float(needs.cost_s.min())
            idle = [place for place, engine in enumerate(engines) if _at_rest(engine, request.prompt_tokens)]
            if idle:
                places, reason = idle, "too late for any gain, and the engine has nothing to do"
            elif self._floor_s >= cost_s:
                self._floor_s -= cost_s
                places, reason = list(range(len(engines))), "too late for any gain, and its turn by the floor"
            else:
                return
            best = min(places, key=lambda place: (engines[place].queued_s, engines[place].load, engines[place].name))
            decision = RouteDecision(
                engine=engines[best].name,
                reason=reason,
                expected_gain=0.0,
                candidates=tuple([engines[place].name for place in places]),
            )
            yield self._binding(request, fleet, decision, hits.get(decision.engine, 0), 0.0)
            outlook.refresh(fleet)

    def _binding(
        self, request: RoutingRequest, fleet: FleetView, decision: RouteDecision, cached_tokens: int, cost_s: float
    ) -> Binding:
        self._queue.remove(request.id)
        self._floor_s += FLOOR_SHARE * cost_s if self._queue.aside else 0.0
        if request.prefix_blocks:
            remember_prefix(self._prefixes, request, decision.engine, fleet)
        return Binding(request=request, decision=decision, cached_tokens=cached_tokens)

    def _hits(self, request: RoutingRequest) -> dict[str, int]:
        return self._prefixes.cached_tokens(request.prefix_blocks, request.prompt_tokens)


def _depth_s(engine: EngineOutlook, now_s: float) -> float:
    """Queued work up to which the engine has room; more, the less is certain of it."""
    return DEPTH_S + max(0.0, now_s - engine.age_from_s)


def _kv_share(engine: EngineOutlook, prompt_tokens: int) -> float:
    """Part of the KV cache that is taken once a prompt has come."""
    blocks = engine.profile.blocks
    return (blocks - engine.free_blocks + engine.profile.blocks_for(prompt_tokens + 1)) / max(1, blocks)


def _at_rest(engine: EngineOutlook, prompt_tokens: int) -> bool:
    return not engine.queue and engine.load < REST_LOAD and _kv_share(engine, prompt_tokens) <= REST_KV_SHARE
