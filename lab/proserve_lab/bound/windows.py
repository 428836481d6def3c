"""Requests laid over time buckets: which tokens are still due in which part of a request's life.

The places of a life are single buckets at first, and runs of buckets that grow with age. In a run everything is taken
for the best: a prefill that ends in it ends at its beginning, a token that is due in it is due at its end.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_lab.bound.engine import EngineCosts
from proserve_lab.bound.output_lengths import OutputTokens
from proserve_lab.simulation.workload import SimulatedRequest

Column = NDArray[np.float64]
Index = NDArray[np.intp]
Flags = NDArray[np.bool_]

_ROUNDING = 1e-9
"""Share of a TPOT: a deadline that is this close after the beginning of a bucket is taken for its beginning."""
_CROWDED = 0.98
_TAIL_GROWTH = 1.2
"""Once this share of requests is past its last deadline, buckets grow by so much: little happens and it takes long."""
_SINGLE = 16
_RUN_GROWTH = 0.2
"""Places are single buckets up to `_SINGLE`; a later run is at most this share of the buckets before it."""
_SPREAD = 1.5
"""Requests whose lives differ by more are laid out apart."""


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of a workload, in order of arrival."""

    arrival_s: Column
    first_due_s: Column
    tpot_s: Column
    first_gain: Column
    further_gain: Column
    prompt: Column
    ready_s: Column
    """No first token is out before: arrival and the least time of a prefill."""
    decodes: Column
    """Tokens after the first, expected ones if lengths are unknown."""
    last_due_s: Column

    @property
    def earnable(self) -> Column:
        return self.first_gain + self.further_gain * self.decodes


def read_requests(requests: Sequence[SimulatedRequest], *, engine: EngineCosts, lengths: OutputTokens) -> Requests:
    terms = [request.terms for request in requests]
    arrival_s = np.array([request.arrival_s for request in requests])
    prompt = np.array([float(request.prompt_tokens) for request in requests])
    first_due_s = arrival_s + np.array([item.objectives.ttft_s for item in terms])
    tpot_s = np.array([item.objectives.tpot_s for item in terms])
    everyone = np.arange(len(requests))
    return Requests(
        arrival_s=arrival_s,
        first_due_s=first_due_s,
        tpot_s=tpot_s,
        first_gain=np.array([float(item.weight * item.first_token_gain) for item in terms]),
        further_gain=np.array([float(item.weight * item.output_token_gain) for item in terms]),
        prompt=prompt,
        ready_s=arrival_s + engine.least_prefill_s(prompt),
        decodes=lengths.total(everyone),
        last_due_s=first_due_s + lengths.longest(everyone) * tpot_s,
    )


def bucket_edges(requests: Requests, bucket_s: float) -> Column:
    """Edges of buckets that cover all lives: of equal widths, but for the few last ones."""
    start_s, end_s = float(requests.arrival_s[0]), float(requests.last_due_s.max())
    crowded_s = max(float(requests.arrival_s[-1]), float(np.quantile(requests.last_due_s, _CROWDED)))
    edges = list(start_s + bucket_s * np.arange(int((crowded_s - start_s) / bucket_s) + 2))
    width_s = bucket_s
    while edges[-1] <= end_s:
        edges.append(edges[-1] + width_s)
        width_s *= _TAIL_GROWTH
    return np.array(edges)


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """Requests with lives of similar length. Two-dimensional columns have a row for each request, and a column for each
    place unless they say otherwise."""

    requests: Index
    run_starts: Index
    """Where each place begins, in buckets from that of the arrival on."""
    bucket: Index
    """A column for each bucket."""
    alive: Flags
    """The bucket is within the request's life, from arrival to last deadline; a column for each bucket."""
    can_start: Flags
    """A prefill may end there."""
    first_gain: Column
    """Of a first token that comes out there."""
    due: Column
    """Decode tokens whose deadlines are there and can be met."""
    late: Column
    """Decode tokens that are late if the prefill ends there and must be emitted before any that is on time."""
    decode_s: Column
    """What each token of `due` takes at least at the floor."""
    late_s: Column
    """What each token of `late` takes at least at the floor; one column."""
    further_gain: Column
    granted: Column
    """Gain of tokens that are not looked at, for who decodes at all; one column."""
    prefill: Column
    """What the prefill takes: resource, request, one column."""


def lay_out(
    requests: Requests, chosen: Index, *, edges: Column, engine: EngineCosts, lengths: OutputTokens
) -> list[Windows]:
    """Windows of the `chosen` requests; those that can't earn are left out."""
    chosen = chosen[requests.last_due_s[chosen] > requests.ready_s[chosen]]
    first = bucket_of(edges, requests.arrival_s[chosen])
    life = bucket_of(edges, requests.last_due_s[chosen]) - first + 1
    order = np.argsort(life, kind="stable")
    windows: list[Windows] = []
    begin = 0
    while begin < len(order):
        end = int(np.searchsorted(life[order], max(8, _SPREAD * life[order[begin]]), side="right"))
        group = order[begin:end]
        windows.append(_window(requests, chosen[group], first[group], life[group], edges, engine, lengths))
        begin = end
    return windows


def present(requests: Requests, edges: Column) -> Column:
    """Requests between arrival and last deadline, by bucket: more can't usefully run in one step."""
    arrived = np.searchsorted(requests.arrival_s, edges[1:])
    gone = np.searchsorted(np.sort(requests.last_due_s), edges[:-1])
    count: Column = (arrived - gone).astype(np.float64)
    return count


def run_starts(buckets: int) -> Index:
    """Where the places of a life of so many buckets begin."""
    starts = [0]
    while (following := starts[-1] + max(1, int(_RUN_GROWTH * starts[-1]) if starts[-1] >= _SINGLE else 1)) < buckets:
        starts.append(following)
    return np.array(starts, dtype=np.intp)


def bucket_of(edges: Column, at_s: Column | float) -> Index:
    """The bucket that a moment is in; the last one for all later moments."""
    place: Index = np.minimum(np.searchsorted(edges, at_s, side="right"), len(edges) - 1) - 1
    return np.maximum(place, 0)


def _window(
    requests: Requests,
    chosen: Index,
    first: Index,
    life: Index,
    edges: Column,
    engine: EngineCosts,
    lengths: OutputTokens,
) -> Windows:
    starts = run_starts(int(life.max()))
    offsets = np.arange(life.max())
    bucket = np.minimum(first[:, None] + offsets, len(edges) - 2)
    alive = offsets < life[:, None]
    begins = alive[:, starts]
    begin_s = edges[bucket[:, starts]]
    end_s = edges[bucket[:, np.append(starts[1:], offsets[-1] + 1) - 1] + 1]
    ready_s = requests.ready_s[chosen][:, None]
    prompt = requests.prompt[chosen][:, None]
    further_gain = requests.further_gain[chosen][:, None]
    can_start = begins & (end_s > ready_s)
    earliest_s = np.maximum(begin_s, ready_s)
    past_s = earliest_s - requests.first_due_s[chosen][:, None]
    longest = lengths.longest(chosen)
    late = np.clip(np.floor(past_s / requests.tpot_s[chosen][:, None] + _ROUNDING), 0, longest[:, None])
    late = np.where(begins, late, longest[:, None])
    following = np.concatenate([late[:, 1:], longest[:, None]], axis=1)
    due = np.where(can_start, lengths.before(chosen, following) - lengths.before(chosen, late), 0.0)
    return Windows(
        requests=chosen,
        run_starts=starts,
        bucket=bucket,
        alive=alive,
        can_start=can_start,
        first_gain=np.where(can_start & (past_s < 0), requests.first_gain[chosen][:, None], 0.0),
        due=due,
        late=late * lengths.more_than(chosen, late),
        decode_s=engine.decode_s(prompt + late),
        late_s=engine.decode_s(prompt),
        further_gain=further_gain,
        granted=further_gain * (lengths.total(chosen) - lengths.before(chosen, longest[:, None])[:, 0])[:, None],
        prefill=engine.prefill(prompt),
    )
