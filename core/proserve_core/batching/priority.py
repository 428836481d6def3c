"""Strict priority: heavier classes first, then order of arrival; nothing is due, nothing has a deadline.

The common baseline (vLLM and xLLM both call theirs `priority`), here with one order over residents and waiting
requests, so a heavy prompt runs before a light decode when the step's tokens do not suffice for both. On block shortage
the lightest, latest residents are preempted, for a heavier waiting request too (vLLM V0; V1 preempts only for
residents). No time budget, no parameters. It starves light classes: that is what it is here to show.
"""

from collections.abc import Iterator, Sequence
from operator import attrgetter

from proserve_core.batching.fill import FillOptions, fill
from proserve_core.batching.state import BatchPlan, EngineState, RequestState

_OPTIONS = FillOptions()
_arrival = attrgetter("arrival_s")


class Priority:
    """Policy `priority`."""

    def plan(self, state: EngineState) -> BatchPlan:
        residents = state.requests.residents
        return fill(
            state,
            order=_by_weight(state.requests),
            residents=list(_by_weight(residents)),
            options=_OPTIONS,
        )


def _by_weight(requests: Sequence[RequestState]) -> Iterator[RequestState]:
    """Lazy, because the fill often needs no waiting request and rarely the light ones."""
    groups: dict[float, list[RequestState]] = {}
    for request in requests:
        weight = request.terms.weight
        if weight in groups:
            groups[weight].append(request)
        else:
            groups[weight] = [request]
    for weight in sorted(groups, reverse=True):
        # In order of arrival at the engine, nearly always the clients' too: the sort is a check.
        yield from sorted(groups[weight], key=_arrival)
