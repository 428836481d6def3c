"""Multi-Level Priority Sorter: which prompts come first.

Source: SlidingServe, MLPS: a lexicographic key of SLO protection, urgency and remaining work. Levels as we define
them: protected prompts meet their deadline if they run now and miss it if they wait one window longer; lost ones can't
meet it any more and come last, without being dropped; the rest is normal. Within a level the prompt with the larger
urgency, remaining time over slack, is first; then less work, then arrival. A lost prompt older than `aging_s` is normal
again.

Not aware of weights, as in the paper; they count in `batch_constructor`.
"""

import math
from collections.abc import Iterable
from enum import IntEnum

import msgspec

from proserve_core.batching.state import RequestState
from proserve_core.latency import LatencyModel

_TINY_S = 1e-6
"""Least slack that an urgency is computed with."""


class Level(IntEnum):
    PROTECTED = 0
    NORMAL = 1
    LOST = 2


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt with what its place in the order comes from."""

    request: RequestState
    level: Level
    slack_s: float
    """Time to the deadline of its next token."""
    work_s: float
    """Marginal time of all that is left of it."""


def sort_prompts(
    prompts: Iterable[RequestState],
    *,
    now_s: float,
    base_s: float,
    window_s: float,
    latency: LatencyModel,
    aging_s: float = math.inf,
) -> list[Ranked]:
    """Most important first.

    Args:
        base_s: time of a step without prompts; running now ends after `base_s` and the prompt's own work.
        window_s: how long a prompt waits that is not in this step.
        aging_s: age at which a lost prompt is normal again.
    """
    keyed: list[tuple[tuple[int, float, float, float], int, Ranked]] = []
    for position, request in enumerate(prompts):
        slack_s = request.next_deadline_s() - now_s
        work_s = latency.prefill_s(request.pending_tokens, request.computed_tokens)
        spare_s = slack_s - base_s - work_s
        if spare_s < 0:
            level = Level.NORMAL if now_s - request.arrival_s > aging_s else Level.LOST
        else:
            level = Level.PROTECTED if spare_s < window_s else Level.NORMAL
        urgency = work_s / max(slack_s, _TINY_S)
        ranked = Ranked(request=request, level=level, slack_s=slack_s, work_s=work_s)
        keyed.append(((level, -urgency, work_s, request.arrival_s), position, ranked))
    keyed.sort(key=lambda item: item[:2])
    return [ranked for _, _, ranked in keyed]
