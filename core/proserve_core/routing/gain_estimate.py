"""EstimateGain: what a request would bring on an engine, less what it would cost the requests already there.

Source: GoRouting (ProServe, arXiv 2512.12928, algorithm 2, lines 2-5): gain of the prefill queue with the new request
minus without. The order in which the engine would work is published only as "its local scheduler's". Here: an engine
that reorders earns the better of two orders, by deadline or by gain per second (SlideBatching moves between the two);
FCFS and priority engines are taken at their word. Decodes always fit the batch, as published; they lose their gain if
one more decode makes a step longer than their TPOT.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import msgspec

from proserve_core.routing.estimate import EngineEstimate, QueuedWork, QueueOrder
from proserve_core.routing.state import RoutingRequest


class GainEstimate(msgspec.Struct, frozen=True, gc=False):
    """What happens if the engine gets the request."""

    delta: float
    """Gain with the request minus gain without."""
    first_token_s: float
    """When its first token is expected."""


Key = Callable[[QueuedWork, float], float]
"""Place of a prefill in an order, smallest first; the second argument is when it could begin."""


def _by_arrival(_work: QueuedWork, _begin_s: float) -> float:
    return 0.0


def _by_weight(work: QueuedWork, _begin_s: float) -> float:
    return -work.weight


def _by_deadline(work: QueuedWork, begin_s: float) -> float:
    """What cannot be on time any more comes last."""
    return work.deadline_s if begin_s + work.cost_s < work.deadline_s else math.inf


def _by_density(work: QueuedWork, begin_s: float) -> float:
    """Gain per second of engine time; what cannot be on time any more comes last."""
    return -work.gain / max(work.cost_s, 1e-9) if begin_s + work.cost_s < work.deadline_s else 0.0


_KEY_OF_ORDER: dict[QueueOrder, Key] = {QueueOrder.ARRIVAL: _by_arrival, QueueOrder.WEIGHT: _by_weight}


class _Schedule:
    """A queue in one order, with finish times."""

    __slots__ = ("complete", "earned", "finish", "key", "keys", "on_time", "start_s")

    def __init__(self, queue: Sequence[QueuedWork], key: Key, start_s: float) -> None:
        self.key = key
        self.start_s = start_s
        keys = [key(work, start_s) for work in queue]
        order = sorted(range(len(queue)), key=keys.__getitem__)
        self.keys = [keys[index] for index in order]
        self.finish: list[float] = []
        self.on_time: list[tuple[float, int, float, float]] = []
        """Time to spare, place, finish and gain of the prefills that are on time, least time to spare first."""
        self.complete = True
        """Everything that is worth something is on time."""
        at_s = start_s
        for place, index in enumerate(order):
            work = queue[index]
            at_s = (at_s if at_s > work.release_s else work.release_s) + work.cost_s
            self.finish.append(at_s)
            if at_s < work.deadline_s:
                self.on_time.append((work.deadline_s - at_s, place, at_s, work.gain))
            elif work.gain > 0:
                self.complete = False
        self.earned = sum([gain for _, _, _, gain in self.on_time])
        self.on_time.sort()

    def with_request(self, new: QueuedWork, begin_s: float, now_s: float) -> tuple[float, float]:
        """Gain of the queue with the request, and when the request would be done."""
        position = bisect_right(self.keys, self.key(new, begin_s))
        before_s = self.finish[position - 1] if position else self.start_s
        cost_s = new.cost_s
        finish_s = (before_s if before_s > begin_s else begin_s) + cost_s
        earned = self.earned + (new.gain if finish_s < new.deadline_s else 0.0)
        for spare_s, place, at_s, gain in self.on_time:
            if spare_s > cost_s:
                break
            if place >= position and at_s > now_s:
                earned -= gain
        return earned, finish_s


class QueueForecast:
    """Answers EstimateGain for one engine; schedules are computed once and serve until the estimate changes."""

    __slots__ = ("_schedules", "engine")

    def __init__(self, engine: EngineEstimate) -> None:
        self.engine = engine
        self._schedules: dict[Key, _Schedule] = {}

    def estimate(self, request: RoutingRequest, now_s: float) -> GainEstimate:
        """Gain difference and first token of `request`, sent now."""
        engine, terms = self.engine, request.terms
        begin_s = now_s if now_s > engine.step_end_s else engine.step_end_s
        new = QueuedWork(
            now_s,
            request.arrival_s + terms.objectives.ttft_s,
            engine.cost_s(request),
            terms.weight * terms.first_token_gain,
            terms.weight,
        )
        key = _KEY_OF_ORDER.get(engine.order)
        if key is None:
            delta, finish_s = self._reordering(new, begin_s, now_s)
        else:
            schedule = self._schedule(key)
            earned, finish_s = schedule.with_request(new, begin_s, now_s)
            delta = earned - schedule.earned
        return GainEstimate(delta + self._decode_delta(request), finish_s)

    def _reordering(self, new: QueuedWork, begin_s: float, now_s: float) -> tuple[float, float]:
        """Difference between the better orders with and without the request."""
        deadline = self._schedule(_by_deadline)
        earned, finish_s = deadline.with_request(new, begin_s, now_s)
        if deadline.complete and earned >= deadline.earned + new.gain:
            return new.gain, finish_s
        density = self._schedule(_by_density)
        dense_earned, dense_finish_s = density.with_request(new, begin_s, now_s)
        delta = max(earned, dense_earned) - max(deadline.earned, density.earned)
        return delta, finish_s if earned >= dense_earned else dense_finish_s

    def _decode_delta(self, request: RoutingRequest) -> float:
        """Per-token gain of the request's own decode, less that of decodes which one more makes too slow."""
        decodes, latency, terms = self.engine.decodes, self.engine.profile.latency, request.terms
        count = decodes.count + 1
        step_s = latency.sums_s(count, 0.0, decodes.context + request.prompt_tokens, count)
        delta = terms.weight * terms.output_token_gain if step_s <= terms.objectives.tpot_s else 0.0
        if step_s > self.engine.tightest_tpot_s:
            before_s = self.engine.decode_step_s
            delta -= sum(gain for tpot_s, gain in decodes.gain_by_tpot.items() if before_s <= tpot_s < step_s)
        return delta

    def _schedule(self, key: Key) -> _Schedule:
        schedule = self._schedules.get(key)
        if schedule is None:
            schedule = self._schedules[key] = _Schedule(self.engine.queue, key, self.engine.start_s)
        return schedule
