"""Our own policy with one part replaced by something simpler, to see what the part is worth.

The policy has no options, and gets none for this: the part is replaced where it is defined while the cell runs. A part
that is not there any more is an error. Some ablations also tell the policy less of the requests, or more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np

from proserve_core.batching import recoverable_gain, step_length
from proserve_core.batching.fading import KeptTpots, shortest_step_s
from proserve_core.batching.gain_density import Pace, Prospects, prospects
from proserve_core.batching.lengths import LengthTable
from proserve_core.batching.output_bins import Column, Index
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.step_length import NO_DECODES_S, DecodeStakes
from proserve_core.clues import NO_CLUES, LengthClues
from proserve_core.latency import LatencyModel
from proserve_lab.simulation.workload import SimulatedRequest


def _fixed_step(
    *,
    stakes: DecodeStakes,
    price: float,
    decode_step_s: float,
    tpot_s: float,
    latency: LatencyModel,
    longest_s: float = np.inf,
) -> float:
    """0.7 TPOT, or what all decodes take."""
    del price, longest_s
    if not len(stakes.slack_s):
        return NO_DECODES_S
    return max(1.03 * decode_step_s + 1e-3, shortest_step_s(latency), 0.7 * tpot_s)


def _tightest_slack(
    *,
    stakes: DecodeStakes,
    price: float,
    decode_step_s: float,
    tpot_s: float,
    latency: LatencyModel,
    longest_s: float = np.inf,
) -> float:
    """Until the next deadline that can be met, at least 0.65 TPOT: the rule of SlideBatching."""
    del longest_s
    shortest_s = _fixed_step(
        stakes=stakes, price=price, decode_step_s=decode_step_s, tpot_s=0.65 / 0.7 * tpot_s, latency=latency
    )
    met = stakes.slack_s[stakes.slack_s >= decode_step_s]
    return max(shortest_s, float(met.min())) if len(met) else shortest_s


def _late_in_full(
    columns: RequestColumns,
    tpots: KeptTpots,
    pace: Pace,
    lengths: LengthTable,
    profiles: Index,
    latency: LatencyModel,
) -> Prospects:
    """Every request counts with the gain of all tokens that it has left, however late it is."""
    found = prospects(columns, tpots, pace, lengths, profiles, latency)
    cost_s = np.divide(found.value, found.density, out=columns.prefill_s + 0.01, where=found.value > 0)
    return msgspec.structs.replace(found, value=found.full_value, density=found.full_value / cost_s)


def _no_limit(**_: object) -> float:
    """Steps as long as if slots and blocks were never short."""
    return np.inf


def _one_kind(_: LengthTable, __: object) -> tuple[tuple[str], ...]:
    """All requests are of one kind."""
    return (("all",),)


def _endless(_: LengthTable, __: Index, emitted: Column, ___: Column | None = None) -> Column:
    """Expect more tokens than any limit, so that the limit decides."""
    return np.full(len(emitted), np.inf)


class Ablation(msgspec.Struct, frozen=True, kw_only=True):
    """What is replaced, and what the policy is told of the requests."""

    target: object = recoverable_gain
    """A module or class."""
    parts: Mapping[str, object] = {}
    """Its names, and what they are bound to instead."""
    clues: Callable[[SimulatedRequest], LengthClues] = lambda request: request.clues


_FILL = recoverable_gain._FILL

ABLATIONS: dict[str, Ablation] = {
    "fixed step 0.7 TPOT": Ablation(parts={"step_length": _fixed_step}),
    "step to the tightest slack": Ablation(parts={"step_length": _tightest_slack}),
    "steps without catch-up": Ablation(target=step_length, parts={"CATCH_UP": 0.0}),
    "steps as if room were never short": Ablation(parts={"full_house_s": _no_limit}),
    "late requests count in full": Ablation(parts={"prospects": _late_in_full}),
    "no skip over": Ablation(parts={"_FILL": msgspec.structs.replace(_FILL, skip=False)}),
    "no urgency": Ablation(parts={"URGENCY": 1e9}),
    "decodes always first": Ablation(parts={"URGENT_TPOTS": 1e9}),
    "no lending of slots": Ablation(parts={"LEND_TPOTS": 1e9}),
    "lengths by prompt length only": Ablation(clues=lambda _: NO_CLUES),
    "one length table for all": Ablation(target=LengthTable, parts={"_keys": _one_kind}),
    "lengths known": Ablation(
        target=LengthTable,
        parts={"expected_rest": _endless},
        clues=lambda request: LengthClues(max_tokens=request.output_tokens),
    ),
}
"""By label. With `lengths known` the policy sees what no engine can: how long each output will be."""


def told(variant: str, requests: Sequence[SimulatedRequest]) -> list[SimulatedRequest]:
    """The requests with what the ablated policy is told of them."""
    clues = ABLATIONS[variant].clues
    return [msgspec.structs.replace(request, clues=clues(request)) for request in requests]


@contextmanager
def ablated(variant: str) -> Iterator[None]:
    """While the context lasts, `recoverable-gain` lacks a part.

    Raises:
        AttributeError: there is no such part any more.
    """
    ablation = ABLATIONS[variant]
    saved = {name: getattr(ablation.target, name) for name in ablation.parts}
    try:
        for name, part in ablation.parts.items():
            setattr(ablation.target, name, part)
        yield
    finally:
        for name, part in saved.items():
            setattr(ablation.target, name, part)
