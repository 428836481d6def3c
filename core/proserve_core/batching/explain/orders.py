"""Standings under each policy of the registry: its order in words and figures, by the policy's own rules.

Policies that work on columns leave their arrays behind (`RankedStep`); the others are asked or have an order that is
one line.
"""

from collections.abc import Callable, Mapping
from typing import Any

from proserve_core.batching.density import Density, density
from proserve_core.batching.edf import Edf
from proserve_core.batching.fair_batching import FairBatching
from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.priority import Priority
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.qoserve import QoServe
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_core.batching.sarathi import Sarathi
from proserve_core.batching.sarathi_priority import SarathiPriority
from proserve_core.batching.slide_batching import SlideBatching
from proserve_core.batching.sliding_serve import SlidingServe
from proserve_core.batching.srpf import Srpf
from proserve_core.batching.standing import Standing
from proserve_core.batching.state import EngineState, RequestState
from proserve_core.batching.weighted_vtc import WeightedVtc

_STAGES = ("decode", "started prompt", "waiting prompt")


def standing(policy: BatchingPolicy, state: EngineState, request: RequestState) -> Standing:
    """Where `request` stood when `policy` planned for `state`, which was its last plan and is not applied yet."""
    order = ORDERS.get(type(policy))
    if order is None:
        return Standing(group="", rank=(), figures=_figures(state, request))
    return order(policy, state, request)


def _figures(state: EngineState, request: RequestState) -> dict[str, float]:
    return {"slack_s": request.next_deadline_s() - state.now_s}


def _stage(request: RequestState) -> int:
    return 2 if not request.resident else 0 if request.is_decode else 1


def _residents_first(_policy: BatchingPolicy, state: EngineState, request: RequestState) -> Standing:
    return Standing(
        group="resident" if request.resident else "waiting",
        rank=(not request.resident, state.requests.row(request.id)),
        figures=_figures(state, request),
    )


def _by_stage(_policy: BatchingPolicy, state: EngineState, request: RequestState) -> Standing:
    stage = _stage(request)
    return Standing(
        group=_STAGES[stage], rank=(stage, state.requests.row(request.id)), figures=_figures(state, request)
    )


def _by_stage_and_weight(_policy: BatchingPolicy, state: EngineState, request: RequestState) -> Standing:
    stage, weight = _stage(request), request.terms.weight
    return Standing(
        group=_STAGES[stage],
        rank=(stage, -weight, request.arrival_s),
        figures={"weight": weight, **_figures(state, request)},
    )


def _by_weight(_policy: BatchingPolicy, state: EngineState, request: RequestState) -> Standing:
    weight = request.terms.weight
    return Standing(
        group=f"weight {weight:g}",
        rank=(-weight, request.arrival_s),
        figures={"weight": weight, **_figures(state, request)},
    )


def _by_deadline(_policy: BatchingPolicy, state: EngineState, request: RequestState) -> Standing:
    figures = _figures(state, request)
    return Standing(group="by deadline", rank=(request.next_deadline_s(),), figures=figures)


def _by_rest(_policy: BatchingPolicy, state: EngineState, request: RequestState) -> Standing:
    pending, figures = request.pending_tokens, _figures(state, request)
    if request.is_decode:
        return Standing(group="decode", rank=(0,), figures=figures)
    return Standing(group="prompt", rank=(1, pending), figures={"pending_tokens": float(pending), **figures})


def _by_density(_policy: BatchingPolicy, state: EngineState, request: RequestState) -> Standing:
    gain_per_s = density(request, state.latency)
    return Standing(
        group="by density",
        rank=(-gain_per_s,),
        figures={"gain_per_s": gain_per_s, **_figures(state, request)},
    )


def _fair_batching(policy: FairBatching, state: EngineState, request: RequestState) -> Standing:
    deadline_s, figures = request.next_deadline_s(), _figures(state, request)
    if not request.is_decode:
        return Standing(group="prompt", rank=(1, deadline_s), figures=figures)
    due = deadline_s < policy.urgent_until_s
    return Standing(group="due decode" if due else "decode that can wait", rank=(0 if due else 2,), figures=figures)


def _qoserve(policy: QoServe, state: EngineState, request: RequestState) -> Standing:
    figures = _figures(state, request)
    if request.is_decode:
        return Standing(group="decode", rank=(0,), figures=figures)
    relegated, due_s = policy.rank(state, request)
    return Standing(
        group="relegated prompt" if relegated else "prompt",
        rank=(1, relegated, due_s),
        figures={"ranked_by_s": due_s - state.now_s, **figures},
    )


def _weighted_vtc(policy: WeightedVtc, state: EngineState, request: RequestState) -> Standing:
    client, figures = request.terms.priority_class, _figures(state, request)
    if request.resident:
        return Standing(group="resident", rank=(0, state.requests.row(request.id)), figures=figures)
    counters = policy.counters
    return Standing(
        group=f"waiting of {client}",
        # Each admission moves its client's counter within the step.
        rank=(1,),
        figures={"counter": counters[client], "least_counter": min(counters.values()), **figures},
    )


def _sliding_serve(policy: SlidingServe, state: EngineState, request: RequestState) -> Standing:
    if request.is_decode:
        return Standing(group="decode", rank=(0,), figures=_figures(state, request))
    if policy.sorted is None:
        return Standing(group="", rank=(), figures=_figures(state, request))
    item, key = policy.sorted.about(request.id)
    chosen = request.id in policy.chosen
    return Standing(
        group=f"{item.level.name.lower()} prompt{' that the knapsack took' if chosen else ''}",
        rank=(1, not chosen, key),
        figures={"slack_s": item.slack_s, "cost_s": item.work_s},
    )


def _ranked(policy: SlideBatching | RecoverableGain, state: EngineState, request: RequestState) -> Standing:
    if policy.ranked is None:
        return Standing(group="", rank=(), figures=_figures(state, request))
    return policy.ranked.standing(request)


ORDERS: Mapping[type, Callable[[Any, EngineState, RequestState], Standing]] = {
    Density: _by_density,
    Edf: _by_deadline,
    FairBatching: _fair_batching,
    Fcfs: _residents_first,
    Priority: _by_weight,
    QoServe: _qoserve,
    RecoverableGain: _ranked,
    Sarathi: _by_stage,
    SarathiPriority: _by_stage_and_weight,
    SlideBatching: _ranked,
    SlidingServe: _sliding_serve,
    Srpf: _by_rest,
    WeightedVtc: _weighted_vtc,
}
"""A policy that is not here is explained without its order."""
