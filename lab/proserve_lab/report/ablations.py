"""Our own policy with one part replaced by something simpler, to see what the part is worth.

The policy has no options, and gets none for this: the part is replaced in its module while the cell runs. A part that
is not there any more is an error.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import msgspec
import numpy as np

from proserve_core.batching import recoverable_gain, step_length
from proserve_core.batching.gain_density import Pace, Prospects, prospects
from proserve_core.batching.lengths import LengthTable
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.step_length import NO_DECODES_S, DecodeStakes
from proserve_core.latency import LatencyModel

Replacement = tuple[ModuleType, Mapping[str, object]]
"""A module and its names with what they are bound to instead."""


def _fixed_step(
    *, stakes: DecodeStakes, density: float, decode_step_s: float, tpot_s: float, latency: LatencyModel
) -> float:
    """0.7 TPOT, or what all decodes take."""
    del density
    if not len(stakes.slack_s):
        return NO_DECODES_S
    return max(1.03 * decode_step_s + 1e-3, latency.host_s + latency.floor_s + 1e-3, 0.7 * tpot_s)


def _tightest_slack(
    *, stakes: DecodeStakes, density: float, decode_step_s: float, tpot_s: float, latency: LatencyModel
) -> float:
    """Until the next deadline that can be met, at least 0.65 TPOT: the rule of SlideBatching."""
    shortest_s = _fixed_step(
        stakes=stakes, density=density, decode_step_s=decode_step_s, tpot_s=0.65 / 0.7 * tpot_s, latency=latency
    )
    met = stakes.slack_s[stakes.slack_s >= decode_step_s]
    return max(shortest_s, float(met.min())) if len(met) else shortest_s


def _no_recovery(columns: RequestColumns, pace: Pace, lengths: LengthTable, latency: LatencyModel) -> Prospects:
    """Lateness is not looked at: every request counts with the gain of all its tokens."""
    found = prospects(columns, pace, lengths, latency)
    scale = np.divide(found.full_value, found.value, out=np.ones_like(found.value), where=found.value > 0)
    density = np.where(found.value > 0, found.density * scale, found.full_value / np.maximum(columns.prefill_s, 1e-3))
    return Prospects(value=found.full_value, full_value=found.full_value, density=density)


_FILL = recoverable_gain._FILL

ABLATIONS: dict[str, Replacement] = {
    "fixed step 0.7 TPOT": (recoverable_gain, {"step_length": _fixed_step}),
    "step to the tightest slack": (recoverable_gain, {"step_length": _tightest_slack}),
    "steps without catch-up": (step_length, {"CATCH_UP": 0.0}),
    "late requests count in full": (recoverable_gain, {"prospects": _no_recovery}),
    "no skip over": (recoverable_gain, {"_FILL": msgspec.structs.replace(_FILL, skip=False)}),
    "no urgency": (recoverable_gain, {"URGENCY": 1e9}),
    "decodes always first": (recoverable_gain, {"URGENT_TPOTS": 1e9}),
    "no lending of slots": (recoverable_gain, {"LEND_TPOTS": 1e9}),
}
"""By label."""


@contextmanager
def ablated(variant: str) -> Iterator[None]:
    """While the context lasts, `recoverable-gain` lacks a part.

    Raises:
        AttributeError: the policy's module has no such part any more.
    """
    module, parts = ABLATIONS[variant]
    saved = {name: getattr(module, name) for name in parts}
    try:
        for name, part in parts.items():
            setattr(module, name, part)
        yield
    finally:
        for name, part in saved.items():
            setattr(module, name, part)
