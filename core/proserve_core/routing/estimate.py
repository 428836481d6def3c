"""What each engine will be doing: its last snapshot replayed to now, plus everything sent to it since.

Source: the per-instance view of GoRouting (ProServe, arXiv 2512.12928, section 4.4): prefill queue, decodes, free
blocks, timestamps against staleness. Rows of a snapshot hold work as of the last finished step, so their queue starts
when the running step began. Queued prefills get absolute finish times from there; as time passes they fall behind
`now` and count as done, which is all the ageing there is. Requests that the snapshot does not count join the
same replay from their time of sending, but not before the snapshot was taken. First tokens seen on the streams do not
correct the replay: mixing two points in time mis-ages the queue (measured: it costs 0.2 to 0.6 points of gain at 100 ms
of staleness and more at longer ones).

An engine without a snapshot is judged by this gateway's own requests in flight: all those without a first token are
still to be prefilled in full, in order, from now on (no credit for time passed), with the expected output already
charged to its blocks, at the speed and size of the fleet's median engine or, without any snapshot, of
`NOMINAL_CALIBRATION`. Idle it looks like any idle engine, so it is not starved; each request in flight makes it heavier
until it answers, so it is not flooded.
"""

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from proserve_core.capacity import CapacitySnapshot, RequestRow
from proserve_core.latency import LatencyModel
from proserve_core.routing.engine_profile import EngineProfile, nominal_profile, snapshot_profile
from proserve_core.routing.state import Dispatched, EngineView, FleetView, RoutingRequest

MIN_PREFILL_SHARE = 0.1
"""Least share of time left for prefills, however many decodes run."""


LoadKey = tuple[bool, float, int, str]
"""Has no room for the request, drain in seconds; ties go to more free blocks, then to the name."""


class QueueOrder(Enum):
    """In which order an engine works off its prefills."""

    ARRIVAL = "arrival"
    WEIGHT = "weight"
    GAIN = "gain"
    """By deadline while all can be met, by gain density otherwise: a stand-in for deadline-aware policies."""


ORDER_OF_POLICY = {"fcfs": QueueOrder.ARRIVAL, "priority": QueueOrder.WEIGHT}
"""Engine policies that do not order by gain."""


class QueuedWork(msgspec.Struct, frozen=True, gc=False):
    """One prefill that has to be done before the next token of its request."""

    release_s: float
    deadline_s: float
    cost_s: float
    """Engine time, stretched by the decodes that run alongside."""
    gain: float
    """Worth of the token that the prefill ends with, if it is on time."""
    weight: float


class Decodes:
    """Sums over the requests that are decoding."""

    __slots__ = ("context", "count", "gain_by_tpot")

    def __init__(self) -> None:
        self.count = 0
        self.context = 0
        self.gain_by_tpot: dict[float, float] = {}

    def add(self, *, context: int, tpot_s: float, gain: float) -> None:
        self.count += 1
        self.context += context
        self.gain_by_tpot[tpot_s] = self.gain_by_tpot.get(tpot_s, 0.0) + gain

    def extend(self, rows: Sequence[RequestRow]) -> None:
        self.count += len(rows)
        self.context += sum([row.context_tokens for row in rows])
        gains = self.gain_by_tpot
        for row in rows:
            gains[row.tpot_s] = gains.get(row.tpot_s, 0.0) + row.weight * row.output_token_gain

    def stretch(self, latency: LatencyModel) -> float:
        """By how much running decodes lengthen prefills: budget / (budget - step constant - cost of the decodes)."""
        if self.count == 0:
            return 1.0
        budget_s = min(self.gain_by_tpot, default=0.0)
        decode_s = (
            latency.constant_s
            + self.count * (latency.linear_token_s + latency.sequence_s)
            + self.context * latency.context_s
        )
        if decode_s >= budget_s * (1 - MIN_PREFILL_SHARE):
            return 1 / MIN_PREFILL_SHARE
        return budget_s / (budget_s - decode_s)


class EngineEstimate:
    """One engine as a routing policy judges it. Times on the gateway's clock."""

    __slots__ = (
        "decode_step_s",
        "decodes",
        "end_s",
        "free_blocks",
        "free_sequences",
        "name",
        "order",
        "profile",
        "queue",
        "start_s",
        "step_end_s",
        "stretch",
        "tightest_tpot_s",
    )

    def __init__(
        self,
        *,
        name: str,
        profile: EngineProfile,
        order: QueueOrder,
        start_s: float,
        step_end_s: float,
        queue: Sequence[QueuedWork],
        decodes: Decodes,
        stretch: float,
        free_blocks: int,
        free_sequences: int,
    ) -> None:
        self.name = name
        self.profile = profile
        self.order = order
        self.start_s = start_s
        """When work on the queue began."""
        self.step_end_s = step_end_s
        """When the step that was running in the snapshot ends."""
        self.queue = queue
        """In order of arrival at the engine."""
        self.decodes = decodes
        self.stretch = stretch
        self.free_blocks = free_blocks
        """Blocks left once everything queued has its own; negative when it does not fit."""
        self.free_sequences = free_sequences
        self.decode_step_s = profile.latency.sums_s(decodes.count, 0.0, decodes.context, decodes.count)
        self.tightest_tpot_s = min(
            (tpot_s for tpot_s in decodes.gain_by_tpot if tpot_s >= self.decode_step_s), default=math.inf
        )
        """Smallest TPOT objective that decodes still meet."""
        end_s = start_s
        for work in queue:
            end_s = (end_s if end_s > work.release_s else work.release_s) + work.cost_s
        self.end_s = end_s
        """When the queue is worked off."""

    def drain_s(self, now_s: float) -> float:
        """Time until the queue is worked off."""
        return self.end_s - now_s if self.end_s > now_s else 0.0

    def begin_s(self, now_s: float) -> float:
        """When a request that comes last could begin."""
        return max(now_s, self.end_s, self.step_end_s)

    def cost_s(self, request: RoutingRequest) -> float:
        """Time from the beginning of the request's prefill to its first token."""
        cached = request.cached_tokens.get(self.name, 0)
        return self.profile.prefill_s(request.prompt_tokens - cached, cached) * self.stretch

    def fits(self, request: RoutingRequest) -> bool:
        """Whether blocks and a sequence slot are left for the request."""
        return self.free_sequences > 0 and self.profile.blocks_for(request.prompt_tokens + 1) <= self.free_blocks

    def load_key(self, request: RoutingRequest, now_s: float) -> LoadKey:
        """Sorts engines by load."""
        end_s = self.end_s
        return not self.fits(request), end_s - now_s if end_s > now_s else 0.0, -self.free_blocks, self.name


class _Known(NamedTuple):
    """An estimate and what it was made from; newest id and count tell whether requests came or went."""

    replay: "_Replay"
    newest: str | None
    in_flight: int
    estimate: EngineEstimate


class FleetEstimator:
    """Builds the estimates of a fleet; remembers those of engines about which nothing new is known."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def estimates(self, fleet: FleetView) -> list[EngineEstimate]:
        """One estimate per engine, in the view's order."""
        engines = fleet.engines
        if len(self._known) > 2 * len(engines):
            names = {view.name for view in engines}
            self._known = {name: entry for name, entry in self._known.items() if name in names}
        nominal: EngineProfile | None = None
        estimates = []
        for view in engines:
            if view.snapshot is None:
                nominal = nominal or nominal_profile(engines)
                estimates.append(_from_own_requests(view, nominal, fleet.now_s))
            else:
                estimates.append(self._from_snapshot(view, view.snapshot))
        return estimates

    def _from_snapshot(self, view: EngineView, snapshot: CapacitySnapshot) -> EngineEstimate:
        known = self._known.get(view.name)
        dispatched = view.dispatched
        newest = next(reversed(dispatched), None)
        if known is None or known.replay.snapshot is not snapshot or known.replay.snapshot_s != view.snapshot_s:
            replay = _Replay(snapshot, view.snapshot_s)
        elif known.newest == newest and known.in_flight == len(dispatched):
            return known.estimate
        else:
            replay = known.replay
        since = [entry for entry in dispatched.values() if not entry.in_snapshot]
        estimate = replay.estimate(view.name, since)
        self._known[view.name] = _Known(replay, newest, len(dispatched), estimate)
        return estimate


class _Replay:
    """The part of an estimate that depends on the snapshot alone."""

    def __init__(self, snapshot: CapacitySnapshot, snapshot_s: float) -> None:
        self.snapshot = snapshot
        self.snapshot_s = snapshot_s
        self.profile = profile = snapshot_profile(snapshot)
        self.decodes = decodes = Decodes()
        queued: list[RequestRow] = []
        decoding: list[RequestRow] = []
        for row in snapshot.rows:
            (decoding if row.decoding or row.prefill_tokens <= 0 else queued).append(row)
        decodes.extend(decoding)
        beyond = _beyond_rows(snapshot, queued, decodes) if snapshot.rows_truncated else None
        self.stretch = decodes.stretch(profile.latency)
        self.start_s = snapshot_s - (snapshot.step_age_s or 0.0)
        self.step_end_s = self.start_s + (snapshot.step_predicted_s or 0.0)
        self.queue = [self._work(row) for row in queued]
        self.free_blocks = snapshot.free_blocks - sum(profile.blocks_for(row.prefill_tokens) for row in queued)
        if beyond is not None:
            requests, tokens = beyond
            cost_s = requests * profile.prefill_s(tokens // requests) * self.stretch
            self.queue.append(QueuedWork(self.start_s, math.inf, cost_s, 0.0, 0.0))
            self.free_blocks -= profile.blocks_for(tokens)

    def _work(self, row: RequestRow) -> QueuedWork:
        gain = row.output_token_gain if row.emitted_tokens else row.first_token_gain
        return QueuedWork(
            self.start_s,
            self.snapshot_s + row.deadline_in_s,
            self.profile.prefill_s(row.prefill_tokens, row.context_tokens) * self.stretch,
            row.weight * gain,
            row.weight,
        )

    def estimate(self, name: str, since: Sequence[Dispatched]) -> EngineEstimate:
        """With the requests sent since the snapshot."""
        snapshot, profile = self.snapshot, self.profile
        sent = [dispatched.request for dispatched in since]
        return EngineEstimate(
            name=name,
            profile=profile,
            order=ORDER_OF_POLICY.get(snapshot.policy, QueueOrder.GAIN),
            start_s=self.start_s,
            step_end_s=self.step_end_s,
            queue=[
                *self.queue,
                *(_own_work(dispatched, profile, self.stretch, self.snapshot_s) for dispatched in since),
            ],
            decodes=self.decodes,
            stretch=self.stretch,
            free_blocks=self.free_blocks - sum(profile.blocks_for(request.prompt_tokens + 1) for request in sent),
            free_sequences=snapshot.max_sequences - snapshot.running - snapshot.waiting - len(sent),
        )


def _own_work(dispatched: Dispatched, profile: EngineProfile, stretch: float, earliest_s: float) -> QueuedWork:
    request = dispatched.request
    terms = request.terms
    return QueuedWork(
        max(dispatched.sent_s, earliest_s),
        request.arrival_s + terms.objectives.ttft_s,
        profile.prefill_s(request.prompt_tokens - dispatched.cached_tokens, dispatched.cached_tokens) * stretch,
        terms.weight * terms.first_token_gain,
        terms.weight,
    )


def _beyond_rows(snapshot: CapacitySnapshot, queued: Sequence[RequestRow], decodes: Decodes) -> tuple[int, int] | None:
    """Requests and tokens left to prefill that the rows had no room for; decodes beyond the rows join `decodes`."""
    totals = snapshot.classes.values()
    decodes.context = max(decodes.context, sum(total.decode_context_tokens for total in totals))
    decodes.count += max(0, snapshot.running - sum(row.resident for row in snapshot.rows))
    requests = snapshot.waiting - sum(not row.resident for row in queued)
    tokens = sum(total.prefill_tokens for total in totals) - sum(row.prefill_tokens for row in queued)
    return (max(1, requests), tokens) if tokens > 0 else None


def _from_own_requests(view: EngineView, profile: EngineProfile, now_s: float) -> EngineEstimate:
    decodes = Decodes()
    waiting = []
    blocks = 0
    for dispatched in view.dispatched.values():
        request = dispatched.request
        output = max(dispatched.emitted_tokens, math.ceil(request.expected_output_tokens))
        blocks += profile.blocks_for(request.prompt_tokens + output)
        if dispatched.emitted_tokens:
            terms = request.terms
            decodes.add(
                context=request.prompt_tokens + dispatched.emitted_tokens,
                tpot_s=terms.objectives.tpot_s,
                gain=terms.weight * terms.output_token_gain,
            )
        else:
            waiting.append(dispatched)
    stretch = decodes.stretch(profile.latency)
    return EngineEstimate(
        name=view.name,
        profile=profile,
        order=QueueOrder.ARRIVAL,
        start_s=now_s,
        step_end_s=now_s,
        queue=[_own_work(dispatched, profile, stretch, now_s) for dispatched in waiting],
        decodes=decodes,
        stretch=stretch,
        free_blocks=profile.blocks - blocks,
        free_sequences=profile.max_sequences - len(view.dispatched),
    )
