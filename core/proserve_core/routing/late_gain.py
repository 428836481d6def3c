"""`late-gain`: requests wait at the gateway in gain order, and each is bound to an engine when one has room for it.

Source: our own study of routing (docs/routing.md): the order of work matters far more than the choice of engine, and an
engine that is given no more than it will do next cannot order it wrongly. The queue is `waiting_queue`. An engine has
room for a request while less than `DEPTH_S` of prefills, and as much as its snapshot is old, would be served before it;
among engines with room the best one has the least of: time until the first token, one TTFT for a full load of decodes,
and one TTFT for each part of the request's gain that others would lose there (`displaced_gain`). With the study's 0.1 s
for a full load of decodes it earned 0.9 points less where outputs are most of the work.

Gateways do not see what others send until a snapshot shows it, so each takes its part of the depth only, by the share
of an engine's requests that are its own. Without that two gateways earned 3.3 points less than one.

An engine of which nobody knows yet how fast it is gets one prompt after another, each when the one before has its first
token.

An engine that does not rank computes prompts as soon as it has them, and all decodes in each step, so both are kept
within what it can do in time: prompts are handed out at the pace at which decodes leave time for them, and decodes take
no more than prompts, at their share of all work, leave. That holds in the mean; a prompt also waits for decodes that it
would make late, for as long as waiting costs it less than them (`decode_slack`). Pace alone earned 32 points less on
conversations with long prompts, slack alone 8 to 9 less where outputs are most of the work: each of many short prompts
takes no token from anybody, all their decodes together do.

The study's gate on the KV cache is left out: holding requests back at 97% cost 1.2 points on conversations with long
prompts, where it avoided 20 preemptions in 1,200 requests.

Classes have their headroom (`room_headroom`), and tenants of a class take turns (`admission.tenant_share`).

Requests that can bring nothing any more go to engines with nothing to do where no decode loses by it, in turns by class
and then tenant (`set_aside`); as a floor, so that every tenant makes progress in any overload, they get `FLOOR_SHARE`
of all engine time handed out. Parameters are times of engines' work or shares, none belongs to a trace.
"""

from collections.abc import Iterator, Mapping
from itertools import islice

import msgspec
import numpy as np

from proserve_core.admission.headroom import HeadroomBook
from proserve_core.routing.decode_slack import lost_at_once, worth_sending_now
from proserve_core.routing.displaced_gain import FULL_LOAD, displaced_gain
from proserve_core.routing.fleet_outlook import (
    AGE_FROM,
    BESIDE,
    DECODES,
    FREE_AT,
    LOAD,
    NEXT_DUE,
    RANKS,
    STEP_END,
    FleetOutlook,
    Meeting,
    meet_one,
)
from proserve_core.routing.gain_left import Column, Mask
from proserve_core.routing.min_ahead import NO_ROOM_S
from proserve_core.routing.outlook import LEAST_SHARE
from proserve_core.routing.prefix_map import PrefixMap
from proserve_core.routing.prompt_pace import PromptPace, Tightest
from proserve_core.routing.request_worth import WorthColumns, worth_of
from proserve_core.routing.room_headroom import blocks_free, entitled
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest
from proserve_core.routing.waiting_queue import WaitingQueue
from proserve_core.routing.waiting_room import Binding, remember_prefix

DEPTH_S = 0.3
"""One to two full prefill steps: less leaves engines idle between decisions, from 0.1 to 0.4 s it is all the same."""
DEPTH_SHARE = 0.3
"""No more than this part of the tightest TTFT objective: what an engine holds cannot be passed by who comes then."""
LEAST_DEPTH_S = 0.05
TICK_S = 0.005
"""How often the queue is ranked anew; who arrives in between comes last until then."""
MISSES = 8
"""So many requests in a row without an engine that has room end a round."""
FINALISTS = 8
"""Nearest engines with room that are asked for the gain that others would lose there."""
REST_LOAD = 0.6
"""With nothing queued, less decode load than this and `REST_KV_SHARE` of its KV cache taken, an engine is at rest;
without any decode it is in any case, or a prompt that takes most of a KV cache would find no rest anywhere."""
REST_KV_SHARE = 0.7
FLOOR_SHARE = 0.01
FORGETTING = 0.02
"""Weight of one request in running means."""
_NO_VALUE = 1e-12


class LateGain:
    """Late binding in gain order."""

    tick_s: float | None = TICK_S
    reads_prefixes = True

    def __init__(self, headroom: HeadroomBook | None = None) -> None:
        self.headroom = headroom or HeadroomBook()
        self._outlook = FleetOutlook()
        self._queue = WaitingQueue()
        self._prefixes = PrefixMap()
        self._ranked_s = -np.inf
        self._prefill_s = self._work_s = 0.0
        """Running means over requests bound: engine time of the prompt, and of prompt and output."""
        self._pace = PromptPace()
        """Of engines that do not rank."""
        self._ttft_s, self._tpot_s = Tightest(), Tightest()
        """Objectives lately."""
        self._senders = 1.0
        """Running mean: how many gateways like this one send to the engines, as their snapshots show it."""
        self._floor_s = 0.0
        """Engine time that requests put aside are owed."""

    def __len__(self) -> int:
        return len(self._queue) + len(self._queue.aside)

    def arrived(self, request: RoutingRequest) -> None:
        objectives = request.terms.objectives
        self._ttft_s.saw(objectives.ttft_s, request.arrival_s)
        self._tpot_s.saw(objectives.tpot_s, request.arrival_s)
        if self.headroom.active:
            request = entitled(request, self.headroom, self._outlook.table, self._queue.cut_off)
        self._queue.add(request, max(self._hits(request).values(), default=0))

    def left(self, request_id: str) -> bool:
        return self._queue.remove(request_id)

    def hopeless(self) -> list[str]:
        queue = self._queue
        return [*queue.aside, *[request.id for request in queue.late if request in queue]]

    def weakest(self, now_s: float, of: tuple[str, str] | None = None) -> str:
        return self._queue.weakest(self._outlook.table, now_s, of).id

    def bind(self, fleet: FleetView) -> Iterator[Binding]:
        if not len(self):
            return
        outlook, queue, now_s = self._outlook, self._queue, fleet.now_s
        outlook.refresh(fleet)
        if now_s - self._ranked_s >= TICK_S:
            queue.rank(outlook.table, now_s)
            self._ranked_s = now_s
        order = ((each, times) for each, times in queue.in_turn() if not self._closed(each, now_s))
        part: list[tuple[RoutingRequest, float]] = []
        kept: Mask = np.zeros(len(outlook.names), dtype=np.bool_)
        misses = 0
        while misses < MISSES:
            # What is left of the last part is asked again: an engine has less room since.
            part += islice(((each, times) for each, times in order if each in queue), MISSES - misses - len(part))
            if not part:
                break
            hits = [self._hits(request) for request, _ in part]
            prompt_tokens, worth = queue.columns(part)
            cached = outlook.cached(hits) if any(hits) else 0.0
            meeting = outlook.meet(worth, prompt_tokens=prompt_tokens, cached=cached, now_s=now_s)
            room = self._room(meeting, fleet)
            if self.headroom.reserves:
                room &= [blocks_free(request, self.headroom, outlook.table, fleet) for request, _ in part]
            waits = self._waits(room, worth, meeting, now_s)
            # Who comes later does not take the slack that an earlier one waits for.
            room &= ~(waits | kept | (np.cumsum(waits, axis=0) > 0))
            found = room.any(axis=1)
            first = int(found.argmax()) if found.any() else len(part)
            for (request, _), value in zip(part[:first], meeting.needs.value.max(axis=1).tolist(), strict=False):
                if value <= 0:
                    queue.put_aside(request)
            kept |= waits[:first].any(axis=0)
            misses += first
            if first < len(part):
                request, times = part[first]
                queue.tenants.sent(request)
                if times != 1:
                    request = msgspec.structs.replace(request, boost=request.boost * times)
                binding, place = self._choose(request, meeting.row(first), room[first], hits[first], fleet)
                yield binding
                outlook.sent(fleet, place)
            part = part[first + 1 :]
        yield from self._bind_aside(fleet)

    def place(self, request: RoutingRequest, fleet: FleetView) -> Binding:
        outlook, hits = self._outlook, self._hits(request)
        outlook.refresh(fleet)
        request = msgspec.structs.replace(request, cached_tokens=hits)
        meeting = meet_one(outlook, request, worth_of(request), fleet.now_s)
        everywhere = np.ones(len(outlook.names), dtype=np.bool_)
        binding, _ = self._choose(request, meeting, everywhere, hits, fleet, reason="its engine failed: placed at once")
        return binding

    @property
    def _depth_s(self) -> float:
        return max(LEAST_DEPTH_S, min(DEPTH_S, DEPTH_SHARE * self._ttft_s.least_s))

    def _share(self) -> Column:
        """Part of the time of engines that do not rank which decodes leave for prompts: all of them get a token in each
        step, so steps must be short enough for the tightest."""
        table, tpot_s = self._outlook.table, self._tpot_s.least_s
        share: Column = np.maximum(LEAST_SHARE, 1 - table[BESIDE] / tpot_s)
        return share

    def _room(self, meeting: Meeting, fleet: FleetView) -> Mask:
        """Which engines have room for which requests."""
        table, now_s = self._outlook.table, fleet.now_s
        # The less certain it is what an engine has done since, the more it may get.
        depth_s = self._depth_s / self._senders + np.maximum(0.0, now_s - table[AGE_FROM])
        prefill_share = self._prefill_s / self._work_s if self._work_s > 0 else 0.0
        load = table[DECODES] / self._tpot_s.least_s
        in_time = (self._pace.busy_s(self._outlook.names, self._share(), now_s) < depth_s) & (
            load <= FULL_LOAD * (1 - prefill_share)
        )
        room: Mask = (meeting.queued_s < depth_s) & (meeting.needs.value > 0) & ((table[RANKS] > 0) | in_time)
        for place, view in enumerate(fleet.engines):
            if not view.speed_known and any(not entry.emitted_tokens for entry in view.dispatched.values()):
                room[:, place] = False
        return room

    def _waits(self, room: Mask, worth: WorthColumns, meeting: Meeting, now_s: float) -> Mask:
        """Which of those that engines have room for should wait until decodes there are further ahead."""
        table, prefill_s = self._outlook.table, meeting.needs.prefill_s
        begin_s = np.maximum(np.maximum(table[FREE_AT], table[STEP_END]), now_s)
        waits: Mask = room & (begin_s + prefill_s > table[NEXT_DUE])
        places = np.flatnonzero(waits.any(axis=0))
        # Those with the most slack: looking at one takes 80 us.
        for place in places[np.argsort((begin_s - table[NEXT_DUE])[places], kind="stable")][:FINALISTS].tolist():
            requests = np.flatnonzero(waits[:, place])
            engine = self._outlook.engines[place]
            now = worth_sending_now(engine, worth.of(requests), prefill_s[requests, place], now_s)
            waits[requests, place] = ~now
        return waits

    def _closed(self, request: RoutingRequest, now_s: float) -> bool:
        """Whether what is left of engine time is kept free for heavier classes."""
        return self.headroom.reserves and self.headroom.closed_to(request.terms.priority_class, now_s)

    def _choose(
        self,
        request: RoutingRequest,
        meeting: Meeting,
        room: Mask,
        hits: Mapping[str, int],
        fleet: FleetView,
        reason: str = "least time and gain lost by others among engines with room",
    ) -> tuple[Binding, int]:
        """Bind the request to the best engine with room; also returns the engine's place."""
        outlook, worth, needs = self._outlook, worth_of(request), meeting.needs
        ttft_s = request.terms.objectives.ttft_s
        cost_s = meeting.ahead_s + needs.ready_s + ttft_s * (outlook.table[LOAD] + needs.load)
        cost_s[~room] = NO_ROOM_S
        best, best_s, best_lost = -1, np.inf, 0.0
        finalists = outlook.least(cost_s, min(FINALISTS, int(room.sum())))
        gains: list[float] = []
        for place in finalists:
            # Loss only adds, so nobody who comes later in this order can be better.
            if cost_s[place] >= best_s:
                break
            lost = displaced_gain(worth, outlook.engines[place], needs, place, request.prompt_tokens)
            lost += lost_at_once(outlook.engines[place], float(needs.prefill_s[place]), fleet.now_s)
            gains.append(float(needs.value[place]) - lost)
            total_s = cost_s[place] + ttft_s * lost / max(needs.value[place], _NO_VALUE)
            if total_s < best_s:
                best, best_s, best_lost = place, total_s, lost
        prefill_s = float(needs.prefill_s[best])
        # One token per TPOT at this load, until the last.
        work_s = prefill_s + worth.rest * worth.tpot_s * float(needs.load[best])
        if self.headroom.active:
            self.headroom.given(request.terms.priority_class, work_s, fleet.now_s, entitled=request.entitled)
        self._prefill_s += FORGETTING * (prefill_s - self._prefill_s)
        self._work_s += FORGETTING * (work_s - self._work_s)
        if self._queue.aside:
            self._floor_s += FLOOR_SHARE * work_s
        name, view = outlook.names[best], fleet.engines[best]
        senders = max(1.0, (view.requests() + 1) / (len(view.dispatched) + 1))
        self._senders += FORGETTING * (senders - self._senders)
        if not outlook.engines[best].ranks:
            # Other gateways send as well, and take their part of the engine's time.
            self._pace.busy_s(outlook.names, self._share(), fleet.now_s)
            self._pace.gave(best, senders * prefill_s)
        age_s = fleet.now_s - request.arrival_s
        decision = RouteDecision(
            engine=name,
            reason=reason,
            expected_ttft_s=age_s + float(meeting.ahead_s[best] + needs.ready_s[best]),
            expected_gain=(float(needs.value[best]) - best_lost) / request.boost,
            candidates=tuple([outlook.names[place] for place in finalists]),
            candidate_ttft_s=tuple((age_s + meeting.ahead_s[finalists] + needs.ready_s[finalists]).tolist()),
            candidate_gain=tuple([gain / request.boost for gain in gains]),
        )
        return self._binding(request, fleet, decision, hits), best

    def _bind_aside(self, fleet: FleetView) -> Iterator[Binding]:
        """Requests that can bring nothing any more."""
        outlook, queue = self._outlook, self._queue
        while queue.aside:
            request = queue.aside.next()
            engines, names = outlook.engines, outlook.names
            kv_share = outlook.kv_share(float(request.prompt_tokens))
            places = [
                place
                for place, engine in enumerate(engines)
                if not engine.queue
                and (engine.load == 0 or (engine.load < REST_LOAD and kv_share[place] <= REST_KV_SHARE))
            ]
            if any(engines[place].decodes is not None for place in places):
                prefill_s = meet_one(outlook, request, worth_of(request), fleet.now_s).needs.prefill_s
                places = [
                    place for place in places if not lost_at_once(engines[place], float(prefill_s[place]), fleet.now_s)
                ]
            if self._closed(request, fleet.now_s):
                places = []
            reason = "too late for any gain, and the engine has nothing to do"
            if not places:
                if self._floor_s <= 0 or self._floor_s < self._work_s:
                    return
                self._floor_s -= self._work_s
                places, reason = list(range(len(engines))), "too late for any gain, and its turn by the floor"
            best = min(places, key=lambda place: (engines[place].sums_s[-1], engines[place].load, names[place]))
            decision = RouteDecision(
                engine=names[best],
                reason=reason,
                expected_gain=0.0,
                candidates=tuple([names[place] for place in places]),
            )
            queue.aside.sent(request)
            yield self._binding(request, fleet, decision, self._hits(request))
            outlook.sent(fleet, best)

    def _binding(
        self, request: RoutingRequest, fleet: FleetView, decision: RouteDecision, hits: Mapping[str, int]
    ) -> Binding:
        self._queue.remove(request.id)
        if request.prefix_blocks:
            remember_prefix(self._prefixes, request, decision.engine, fleet)
        return Binding(request=request, decision=decision, cached_tokens=hits.get(decision.engine, 0))

    def _hits(self, request: RoutingRequest) -> dict[str, int]:
        return self._prefixes.cached_tokens(request.prefix_blocks, request.prompt_tokens)
