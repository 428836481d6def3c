"""Strict priority: heavier classes first, then order of arrival; nothing is due, nothing has a deadline.

The common baseline (vLLM and xLLM both call theirs `priority`), here with one order over residents and waiting
requests, so a heavy prompt runs before a light decode when the step's tokens do not suffice for both. On block shortage
the lightest, latest residents are preempted, for a heavier waiting request too (vLLM V0; V1 preempts only for
residents). No time budget, no parameters. It starves light classes: that is what it is here to show.
"""

from collections.abc import Iterator
from itertools import chain
from operator import attrgetter

from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.state import BatchPlan, EngineState, RequestState

_OPTIONS = FillOptions()
_arrival = attrgetter("arrival_s")


class Priority:
    """Policy `priority`."""

    def plan(self, state: EngineState) -> BatchPlan:
        everybody: dict[float, list[RequestState]] = {}
        residents: dict[float, list[RequestState]] = {}
        for request in state.requests:
            weight = request.terms.weight
            if weight in everybody:
                everybody[weight].append(request)
            else:
                everybody[weight] = [request]
            if request.resident:
                residents.setdefault(weight, []).append(request)
        # The lists are in order of arrival at the engine, nearly always the clients' too: sorting is a check.
        return fill(
            state,
            order=_by_weight(everybody),
            residents=list(_by_weight(residents)),
            options=_OPTIONS,
        )


def _by_weight(groups: dict[float, list[RequestState]]) -> Iterator[RequestState]:
    """Lazy: the fill rarely gets to the light end."""
    return chain.from_iterable(sorted(groups[weight], key=_arrival) for weight in sorted(groups, reverse=True))
