"""How many engines a pool should have: one more when gain is lost for want of capacity, one less when none would be.

Marginal gain instead of utilisation: what counts is what one engine more would bring back and one less would cost. The
first is measured: gain lost to lateness and shedding (other causes, a client that left, need no engine). The second is
predicted from the engines' snapshots: with one engine less each of the others has n/(n-1) times the load, so its steps
take longer; who then gets tokens more slowly than promised, waits already, or finds no KV blocks, would lose.

Stabilised as in Kubernetes' HorizontalPodAutoscaler: a wish must last, for as long as the pool says, before it is
followed, and while engines start nothing is decided. Those that do not start in time serve nobody: none is added beside
them, and without losses they go one by one.

Without engines there is no gain to look at, so the step between none and one is about requests: the last engine goes
when there were none for `idle_delay_s`, and the first request brings it back (as Knative and KEDA do it). No engine
goes while a gateway is silent: that one may be overloaded, or have requests. Pure: time is an argument.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from proserve_core.capacity import CapacitySnapshot
from proserve_core.gain import GainTotals, LossCause
from proserve_core.pools import Scaling

CAPACITY_CAUSES = frozenset(
    {
        LossCause.SHED,
        LossCause.LATE_FIRST_TOKEN,
        LossCause.LATE_TOKEN_QUEUED,
        LossCause.LATE_TOKEN_PREEMPTED,
        LossCause.LATE_TOKEN_BATCHED,
    }
)
"""Losses that more engines make less."""
CALM = 0.5
"""One engine less must lose at most this share of what may be lost: a pool that is just right stays as it is."""


class Verdict(StrEnum):
    """What was decided, and why."""

    STEADY = "steady"
    STARTING = "starting"
    LATE = "late"
    BLIND = "blind"
    HELD = "held"
    """One engine less would do, as far as those gateways can tell that report."""
    ASLEEP = "asleep"
    UP = "up"
    DOWN = "down"
    AT_MAXIMUM = "at_maximum"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a pool at one moment."""

    at_s: float
    engines: int
    """That there should be by now."""
    ready: int
    loss: float | None
    """Share of the gain of late that was lost for want of capacity; None: nobody reports."""
    loss_with_one_less: float | None
    """The same, as predicted; None: nobody can tell."""
    requests: int = 0
    """That wait or run, or came since the sample before."""
    all_gateways_tell: bool = True
    """Whether there may be no others."""
    not_ready_s: float = 0.0
    """How long fewer have been ready than there should be."""
    start_limit_s: float = math.inf
    """How long engines may take to become ready."""


class ScalingState(msgspec.Struct, frozen=True, kw_only=True):
    """Since when one engine more or less is wished for, and since when there were no requests: as far as all gateways
    can tell, or while one is silent."""

    more_since_s: float | None = None
    less_since_s: float | None = None
    idle_since_s: float | None = None
    silence: bool = False
    """Whether not all gateways report."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    engines: int
    verdict: Verdict
    message: str
    state: ScalingState


def decide(scaling: Scaling, state: ScalingState, sample: Sample) -> Decision:
    """The number of engines from now on, within the pool's limits."""
    silence = not sample.all_gateways_tell
    if silence != state.silence:
        # Others tell now, or fewer: nobody knows whether they would have said the same.
        state = msgspec.structs.replace(state, less_since_s=None, idle_since_s=None)
    decision = _decide(scaling, state, sample)
    if silence and decision.verdict is Verdict.DOWN:
        decision = _stay(decision.engines + 1, Verdict.HELD, "not all gateways report, so no engine goes", state)
    known = msgspec.structs.replace(decision.state, silence=silence)
    return msgspec.structs.replace(decision, state=known)


def _decide(scaling: Scaling, state: ScalingState, sample: Sample) -> Decision:
    """As if there were no other gateways than those that report."""
    engines = min(max(sample.engines, scaling.min_engines), scaling.max_engines)
    if sample.loss is None:
        return _stay(engines, Verdict.BLIND, "no gateway reports the pool's gain", ScalingState())
    if engines == 0:
        return _asleep(sample)
    if scaling.min_engines > 0 or sample.requests:
        return _awake(scaling, state, sample, engines)
    idle_since_s = sample.at_s if state.idle_since_s is None else state.idle_since_s
    if engines == 1 and sample.at_s - idle_since_s >= scaling.idle_delay_s:
        message = f"1 -> 0: no request came for {scaling.idle_delay_s:g} s"
        return Decision(engines=0, verdict=Verdict.DOWN, message=message, state=ScalingState())
    decision = _awake(scaling, state, sample, engines)
    idle = msgspec.structs.replace(decision.state, idle_since_s=idle_since_s)
    return msgspec.structs.replace(decision, state=idle)


def _asleep(sample: Sample) -> Decision:
    if sample.requests == 0:
        return _stay(0, Verdict.ASLEEP, "no request waits for an engine", ScalingState())
    message = f"0 -> 1: {sample.requests} requests came"
    return Decision(engines=1, verdict=Verdict.UP, message=message, state=ScalingState())


def _awake(scaling: Scaling, state: ScalingState, sample: Sample, engines: int) -> Decision:
    """As gain says it, with at least one engine."""
    loss = sample.loss or 0.0
    fewest = max(scaling.min_engines, 1)
    if sample.ready < engines:
        return _while_starting(scaling, state, sample, engines)
    most = scaling.max_loss_percent / 100
    if loss > most:
        return _wish_more(scaling, state, sample, engines)
    text = f"{_percent(loss)} of the gain is lost for want of capacity, at most {_percent(most)} may be"
    less = sample.loss_with_one_less
    if engines <= fewest or less is None or max(less, loss) > CALM * most:
        return _stay(engines, Verdict.STEADY, text, ScalingState())
    since_s = sample.at_s if state.less_since_s is None else state.less_since_s
    if sample.at_s - since_s < scaling.scale_down_delay_s:
        return _stay(engines, Verdict.STEADY, text, ScalingState(less_since_s=since_s))
    return Decision(
        engines=engines - 1,
        verdict=Verdict.DOWN,
        message=f"{engines} -> {engines - 1}: one engine less would lose {_percent(less)} of the gain",
        state=ScalingState(),
    )


def _while_starting(scaling: Scaling, state: ScalingState, sample: Sample, engines: int) -> Decision:
    text = f"{sample.ready} of {engines} engines are ready"
    if sample.not_ready_s < sample.start_limit_s:
        return _stay(engines, Verdict.STARTING, f"{text}; nothing is decided until all are", ScalingState())
    loss = sample.loss or 0.0
    if engines <= max(scaling.min_engines, 1) or loss > CALM * scaling.max_loss_percent / 100:
        return _stay(engines, Verdict.LATE, f"{text}; the others did not start in time", ScalingState())
    since_s = sample.at_s if state.less_since_s is None else state.less_since_s
    if sample.at_s - since_s < scaling.scale_down_delay_s:
        waiting = ScalingState(less_since_s=since_s)
        return _stay(engines, Verdict.LATE, f"{text}; the others did not start in time", waiting)
    # What is not ready goes first, and costs nothing: no prediction is needed.
    return Decision(
        engines=engines - 1,
        verdict=Verdict.DOWN,
        message=f"{engines} -> {engines - 1}: {text}, and {_percent(loss)} of the gain is lost with these",
        state=ScalingState(),
    )


def _wish_more(scaling: Scaling, state: ScalingState, sample: Sample, engines: int) -> Decision:
    loss = sample.loss or 0.0
    text = f"{_percent(loss)} of the gain is lost for want of capacity"
    since_s = sample.at_s if state.more_since_s is None else state.more_since_s
    waiting = ScalingState(more_since_s=since_s)
    if engines >= scaling.max_engines:
        return _stay(engines, Verdict.AT_MAXIMUM, f"{text}, with as many engines as there may be", waiting)
    if sample.at_s - since_s < scaling.scale_up_delay_s:
        return _stay(engines, Verdict.STEADY, text, waiting)
    # What is lost would keep this many engines busy.
    more = min(engines + max(1, math.floor(engines * loss)), scaling.max_engines)
    return Decision(engines=more, verdict=Verdict.UP, message=f"{engines} -> {more}: {text}", state=ScalingState())


def _stay(engines: int, verdict: Verdict, message: str, state: ScalingState) -> Decision:
    return Decision(engines=engines, verdict=verdict, message=message, state=state)


def _percent(share: float) -> str:
    return f"{share * 100:.1f}%"


def capacity_loss(totals: GainTotals) -> float:
    """Share of the gain that was lost for want of capacity; 0 when nothing was earnable."""
    lost = sum(gain for cause, gain in totals.lost.items() if cause in CAPACITY_CAUSES)
    return lost / totals.earnable if totals.earnable > 0 else 0.0


def loss_with_one_less(snapshots: Sequence[CapacitySnapshot]) -> float | None:
    """Predicted share of the gain per step that is lost if one of these engines goes; None for a single engine."""
    count = len(snapshots)
    if count < 2:
        return None
    growth = count / (count - 1)
    at_stake = lost = 0.0
    for snapshot in snapshots:
        stake, gone = _losses(snapshot, growth)
        at_stake += stake
        lost += gone
    return lost / at_stake if at_stake > 0 else 0.0


def stake(snapshot: CapacitySnapshot) -> float:
    """Gain per step of the requests at an engine: what their next tokens are worth."""
    return sum(row.weight * (row.output_token_gain if row.decoding else row.first_token_gain) for row in snapshot.rows)


def _losses(snapshot: CapacitySnapshot, growth: float) -> tuple[float, float]:
    rows = snapshot.rows
    decoding = [row for row in rows if row.resident and row.decoding]
    prefill = sum(row.prefill_tokens for row in rows if row.resident and not row.decoding)
    new_tokens = min(growth * (len(decoding) + prefill), float(snapshot.max_step_tokens))
    context = growth * sum(row.context_tokens for row in decoding)
    step_s = snapshot.latency.sums_s(new_tokens, 0.0, context, math.ceil(growth * len(decoding)))
    in_use = growth * (snapshot.blocks - snapshot.free_blocks)
    homeless = max(0.0, 1.0 - snapshot.blocks / in_use) if in_use > 0 else 0.0
    total = gone = 0.0
    for row in rows:
        worth = row.weight * (row.output_token_gain if row.decoding else row.first_token_gain)
        total += worth
        too_slow = row.decoding and step_s >= row.tpot_s
        gone += worth if too_slow or not row.resident else worth * homeless
    return total, gone
