"""Requests whose TPOT no step can keep: what they have in hand is used up token by token.

A class may ask for tokens faster than the engine's shortest step brings them (host work and reading the weights). In
steps of s each token takes s - TPOT of what the first one was early by, and when that is used up all further ones are
late, whatever the engine does. So such a request is worth the tokens that come until then,

    n = 1 + floor(early / (s - TPOT)),

as far as its output is expected to be so long. Its lead is what its expected tokens leave of its slack. While that is
positive they all come in time; below, each second by which the request is put off costs 1 / (s - TPOT) tokens at the
end. Once late it earns nothing any more, and it sets no pace for the others.

Source: our own. Measured, beside what such a class took from the others without it: docs/batching.md.
"""

import msgspec
import numpy as np

from proserve_core.batching.lengths import LengthTable
from proserve_core.batching.request_columns import Column, Index, Mask, RequestColumns
from proserve_core.latency import LatencyModel

_MARGIN_S = 1e-3


def shortest_step_s(latency: LatencyModel) -> float:
    """The shortest step that is planned for: the least that one can take, and a millisecond for its work."""
    return latency.host_s + latency.floor_s + _MARGIN_S


class KeptTpots(msgspec.Struct, frozen=True, kw_only=True):
    """TPOTs as far as steps can keep them."""

    tpot_s: Column
    """Of each request: its own, or the shortest step where that is longer."""
    least_s: float
    """Of the decodes, or of all if there is none; without those that fade, if there are others."""
    fading: Index
    """The requests that ask for less than the shortest step."""
    spent: Mask
    """Those of them that are late, and thereby for ever."""


def kept_tpots(columns: RequestColumns, latency: LatencyModel) -> KeptTpots:
    shortest_s = shortest_step_s(latency)
    fades = columns.tpot_s < shortest_s
    fading = fades.nonzero()[0]
    if not len(fading):
        return KeptTpots(tpot_s=columns.tpot_s, least_s=columns.least_tpot_s, fading=fading, spent=fades)
    keepable_s = (columns.tpot_s[columns.decode & ~fades], columns.tpot_s[~fades])
    return KeptTpots(
        tpot_s=np.maximum(columns.tpot_s, shortest_s),
        least_s=next((float(tpot_s.min()) for tpot_s in keepable_s if len(tpot_s)), shortest_s),
        fading=fading,
        spent=fades & (columns.slack_s <= latency.host_s + latency.floor_s),
    )


def tokens_in_time(
    columns: RequestColumns, places: Index, lengths: LengthTable, profiles: Index, *, early_s: Column, lost_s: Column
) -> Column:
    """Expected tokens of some requests before what they have in hand is used up.

    Args:
        profiles: the requests' in the length table.
        early_s: by how much the next token of each of `places` comes before its deadline.
        lost_s: what each token takes of that.
    """
    tokens = np.zeros(len(places))
    some = (early_s > 0).nonzero()[0]
    chosen = places[some]
    emitted = columns.emitted[chosen]
    most = np.minimum(1 + np.floor(early_s[some] / lost_s[some]), columns.most[chosen] - emitted)
    rest = lengths.expected_rest(profiles[chosen], emitted)
    tokens[some] = np.minimum(most, rest - lengths.expected_rest(profiles[chosen], emitted, most))
    return tokens


def gain_of(columns: RequestColumns, places: Index, tokens: Column) -> Column:
    """Gain of the next `tokens` tokens of some requests."""
    gain: Column = columns.next_gain[places] + columns.token_gain[places] * np.maximum(0.0, tokens - 1)
    return np.where(tokens > 0, gain, 0.0)
