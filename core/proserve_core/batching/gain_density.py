"""What a request can still bring, and for how much engine time: the value that `recoverable-gain` ranks by.

Tokens that are late already are lost, but a late request that runs catches up: each step brings a token while deadlines
advance by one TPOT per token. If the next token comes `late_s` after its deadline and steps take `s`, the first
`k = 1 + floor(late_s / (TPOT - s))` tokens miss theirs. The recoverable gain of a request is that of its tokens after
those, by expected length; its cost all engine time until its end: the prompt, then a token per step with a growing
context and its share of the step's constant. Their ratio is gain per engine second. Where steps cannot keep a TPOT,
gain and cost are those of the tokens that come before what is in hand is used up (`fading`).
"""

import msgspec
import numpy as np

from proserve_core.batching.fading import KeptTpots, gain_of, tokens_in_time
from proserve_core.batching.lengths import LengthTable
from proserve_core.batching.request_columns import Column, Index, RequestColumns
from proserve_core.latency import LatencyModel

TPOT_SHARE = 0.9
"""Steps are assumed to take at most this share of a TPOT: the rest is what catching up is made of."""
HOPELESS_SHARE = 0.02
"""A late request with less than this share of its expected gain left is worth nothing."""
CONSTANT_SHARERS = 16
"""The step's constant is shared among at least so many."""
LEAST_PREFILL_SHARE = 0.15
_NO_TIME_S = 1e-9
"""Least cost: a fitted model may have coefficients of 0."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast the engine goes at present."""

    decode_step_s: float
    """A step of all decodes and nothing else, at most what the engine will plan for."""
    step_s: float
    """What steps took lately."""
    decodes: int
    prefill_share: float
    """Part of the time that decoding at one token per TPOT leaves to prompts."""


class Prospects(msgspec.Struct, frozen=True):
    """One entry per request."""

    value: Column
    """Recoverable gain; 0 for the hopeless."""
    full_value: Column
    """Gain of all tokens to come, were they on time."""
    density: Column
    """Recoverable gain per engine second."""
    rest: Column
    """Expected tokens to come."""
    cost_s: Column
    """Engine time for them, as far as they earn anything."""
    lost_s: Column
    """What each token takes of the slack, where the TPOT can't be kept; else 0."""
    lead_s: Column
    """Slack less what all expected tokens take of it."""


def prefill_share(
    columns: RequestColumns, tpots: KeptTpots, latency: LatencyModel, decodes: Index, wanted: Column | float = 1.0
) -> float:
    """Part of the time left to prompts when `decodes`, weighted by `wanted`, get a token per TPOT."""
    each_s = wanted * _each_s(columns, latency, decodes)
    busy = float(np.add.reduce(each_s / tpots.tpot_s[decodes])) + latency.constant_s / (0.8 * tpots.least_s)
    return max(LEAST_PREFILL_SHARE, 1 - busy)


def decode_share(columns: RequestColumns, tpots: KeptTpots, latency: LatencyModel, decodes: Index) -> float:
    """Part of the time that `decodes` take when each gets a token per TPOT, with the steps' constant."""
    each_s = _each_s(columns, latency, decodes)
    return float(np.add.reduce(each_s / tpots.tpot_s[decodes])) + latency.constant_s / tpots.least_s


def _each_s(columns: RequestColumns, latency: LatencyModel, decodes: Index) -> Column:
    """Marginal time of a token of each decode."""
    each_s: Column = latency.linear_token_s + latency.sequence_s + latency.context_s * columns.context[decodes]
    return each_s


def prospects(
    columns: RequestColumns,
    tpots: KeptTpots,
    pace: Pace,
    lengths: LengthTable,
    profiles: Index,
    latency: LatencyModel,
) -> Prospects:
    """What each request can still bring. `profiles` are the requests' in the length table."""
    tpot_s, token_gain, emitted = columns.tpot_s, columns.token_gain, columns.emitted
    pace_s = max(pace.step_s, pace.decode_step_s)
    step_s = np.minimum(pace_s, TPOT_SHARE * tpot_s)
    fading = tpots.fading
    step_s[fading] = np.maximum(pace_s, tpots.tpot_s[fading])
    # A decode has no prompt to compute.
    ready_s = np.maximum(columns.prefill_s / pace.prefill_share, pace.decode_step_s)
    np.minimum(ready_s, step_s, out=ready_s, where=columns.decode)
    late_s = ready_s - columns.slack_s
    most = columns.most - emitted
    rest = lengths.expected_length(profiles)
    started = emitted.nonzero()[0]
    rest[started] = lengths.expected_rest(profiles[started], emitted[started])
    np.minimum(rest, most, out=rest)
    full = columns.next_gain + token_gain * np.maximum(0.0, rest - 1)
    value, earning, lost_s, lead_s = full, rest, np.zeros(len(columns)), columns.slack_s
    if len(fading):
        lost_s[fading] = step_s[fading] - tpot_s[fading]
        lead_s = lead_s - rest * lost_s
        earning = rest.copy()
        early_s = columns.slack_s - np.maximum(ready_s, latency.host_s + latency.floor_s)
        earning[fading] = tokens_in_time(
            columns, fading, lengths, profiles, early_s=early_s[fading], lost_s=lost_s[fading]
        )
        value = full.copy()
        value[fading] = gain_of(columns, fading, earning[fading])
        late_s[fading] = -np.inf
    late = (late_s >= 0).nonzero()[0]
    if len(late):
        value = value.copy()
        value[late] = _late_value(
            columns, late, lengths, profiles, late_s=late_s[late], step_s=step_s[late], rest=rest[late]
        )
    share_s = latency.constant_s / max(CONSTANT_SHARERS, pace.decodes + 1)
    token_s = latency.linear_token_s + latency.sequence_s + share_s
    cost_s = columns.prefill_s + earning * (token_s + latency.context_s * (columns.context + earning / 2))
    density = value / np.maximum(cost_s, _NO_TIME_S)
    return Prospects(
        value=value, full_value=full, density=density, rest=rest, cost_s=cost_s, lost_s=lost_s, lead_s=lead_s
    )


def value_when_ready(
    columns: RequestColumns,
    places: Index,
    ready_s: Column,
    worth: Prospects,
    pace: Pace,
    lengths: LengthTable,
    profiles: Index,
) -> Column:
    """Recoverable gain of some requests if their next tokens came in `ready_s`."""
    step_s = np.minimum(max(pace.step_s, pace.decode_step_s), TPOT_SHARE * columns.tpot_s[places])
    late_s = ready_s - columns.slack_s[places]
    value: Column = worth.full_value[places].copy()
    fading = worth.lost_s[places].nonzero()[0]
    if len(fading):
        chosen = places[fading]
        tokens = tokens_in_time(
            columns, chosen, lengths, profiles, early_s=-late_s[fading], lost_s=worth.lost_s[chosen]
        )
        value[fading] = gain_of(columns, chosen, tokens)
        late_s[fading] = -np.inf
    late = (late_s >= 0).nonzero()[0]
    value[late] = _late_value(
        columns,
        places[late],
        lengths,
        profiles,
        late_s=late_s[late],
        step_s=step_s[late],
        rest=worth.rest[places[late]],
    )
    return value


def _late_value(
    columns: RequestColumns,
    late: Index,
    lengths: LengthTable,
    profiles: Index,
    *,
    late_s: Column,
    step_s: Column,
    rest: Column,
) -> Column:
    """Gain of the tokens of `late` requests after those that they miss until they have caught up."""
    missed = 1 + np.floor(late_s / (columns.tpot_s[late] - step_s))
    value = np.zeros(len(late))
    # Most of a long queue is too late for all the tokens that it may ask for.
    left_over = columns.most[late] - columns.emitted[late] - missed
    some = (left_over > 0).nonzero()[0]
    late, missed = late[some], missed[some]
    late_gain = columns.token_gain[late]
    left = lengths.expected_rest(profiles[late], columns.emitted[late], missed)
    left = late_gain * np.minimum(left, left_over[some])
    left[left < HOPELESS_SHARE * late_gain * np.maximum(1.0, rest[some])] = 0.0
    value[some] = left
    return value
