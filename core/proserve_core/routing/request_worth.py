"""What a request is worth on an engine per second of the engine's time, for many engines or many requests at once.

Source: the gain density of `late-gain` (docs/routing.md): `V / (P + E * (token + context * (ctx + E/2)))`, with V the
gain left if the prompt P were computed at once and E the expected tokens. Engines are columns of coefficients, because
costs differ between engines and one decision asks for all of them.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.routing.gain_left import Column, Number, gain_left
from proserve_core.routing.outlook import EngineOutlook
from proserve_core.routing.state import RoutingRequest

CONSTANT_SHARERS = 32
"""Requests that share a step's constant: what a decode token costs beside its own work."""
LEAST_COST_S = 1e-9
"""A fitted latency model may have coefficients of 0."""

LINEAR, ATTENTION, SEQUENCE, TOKEN, CONTEXT, DECODE, SHARE, STEP = range(8)
"""Rows of coefficients: the latency model's, then the outlook's share of time for prefills and step time."""
Coefficients = NDArray[np.float64]
"""One row per coefficient (more may follow), one column per engine."""


class Worth(msgspec.Struct, frozen=True, gc=False):
    """What gain needs to know of one request."""

    full: float
    """Gain with everything on time."""
    token_gain: float
    rest: float
    """Expected tokens."""
    tpot_s: float
    deadline_s: float
    """Of the token that the prefill ends with."""


class WorthColumns(msgspec.Struct, frozen=True, gc=False):
    """The same of several requests, one entry each."""

    full: Column
    token_gain: Column
    rest: Column
    tpot_s: Column
    deadline_s: Column

    def of(self, requests: NDArray[np.intp]) -> "WorthColumns":
        """Of some of them, by place."""
        columns = (self.full, self.token_gain, self.rest, self.tpot_s, self.deadline_s)
        return WorthColumns(*[column[requests] for column in columns])


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What it needs of engines and brings there: one entry per engine, or per request."""

    prefill_s: Column
    """Engine time of the prompt."""
    ready_s: Column
    """Time from its beginning to the first token, beside the decodes there."""
    cost_s: Column
    """Engine time until its end."""
    value: Column
    """Gain left if its prompt were begun at once."""
    load: Column
    """Share of the engine's time that its decode will take."""

    def row(self, request: int) -> "Demand":
        """Of one of several requests."""
        columns = (self.prefill_s, self.ready_s, self.cost_s, self.value, self.load)
        return Demand(*[column[request] for column in columns])

    @property
    def density(self) -> Column:
        """Gain per second of engine time: by this requests are ranked."""
        return self.value / self.cost_s


def worth_of(request: RoutingRequest) -> Worth:
    """Of a request that has no token yet."""
    terms = request.terms
    weight = terms.weight * request.boost
    token_gain = weight * terms.output_token_gain
    rest = request.expected_output_tokens
    return Worth(
        weight * terms.first_token_gain + token_gain * max(0.0, rest - 1),
        token_gain,
        rest,
        terms.objectives.tpot_s,
        request.arrival_s + terms.objectives.ttft_s,
    )


def demand(
    worth: Worth | WorthColumns, engines: Coefficients, *, tokens: Number, cached: Number, now_s: float
) -> Demand:
    """Of requests with `tokens` still to prefill after `cached` ones.

    One of `engines` and the other arguments has one entry, or both have as many.
    """
    context = tokens + cached
    prefill_s = engines[LINEAR] * tokens + engines[ATTENTION] * (tokens * (context + cached)) + engines[SEQUENCE]
    ready_s = prefill_s / engines[SHARE]
    rest = worth.rest
    value = gain_left(
        now_s + ready_s - worth.deadline_s,
        full=worth.full,
        token_gain=worth.token_gain,
        rest=rest,
        tpot_s=worth.tpot_s,
        step_s=engines[STEP],
    )
    cost_s = prefill_s + rest * (engines[TOKEN] + engines[CONTEXT] * (context + rest / 2))
    load = (engines[DECODE] + engines[CONTEXT] * context) / worth.tpot_s
    return Demand(prefill_s, ready_s, np.maximum(cost_s, LEAST_COST_S), value, load)


def coefficients(outlook: EngineOutlook) -> tuple[float, ...]:
    """Column of an engine."""
    latency = outlook.profile.latency
    decode_s = latency.linear_token_s + latency.sequence_s
    return (
        latency.linear_token_s,
        latency.attention_s,
        latency.sequence_s,
        decode_s + latency.constant_s / CONSTANT_SHARERS,
        latency.context_s,
        decode_s,
        outlook.share,
        outlook.step_s,
    )
