"""Requests by stage: what policies that treat decodes, started prompts and waiting prompts apart begin with."""

from collections.abc import Sequence

import msgspec

from proserve_core.batching.state import RequestState


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """Each list in order of arrival at the engine."""

    decodes: list[RequestState]
    prefills: list[RequestState]
    """Residents whose prompt, or whose recomputation, is not finished."""
    waiting: list[RequestState]


def stages(requests: Sequence[RequestState]) -> Stages:
    decodes: list[RequestState] = []
    prefills: list[RequestState] = []
    waiting: list[RequestState] = []
    for request in requests:
        if not request.resident:
            waiting.append(request)
        elif request.is_decode:
            decodes.append(request)
        else:
            prefills.append(request)
    return Stages(decodes=decodes, prefills=prefills, waiting=waiting)
