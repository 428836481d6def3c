"""Residents by stage: what policies that treat decodes and started prompts apart begin with."""

import msgspec

from proserve_core.batching.request_table import RequestTable
from proserve_core.batching.state import RequestState


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """Each list in order of arrival at the engine."""

    decodes: list[RequestState]
    prefills: list[RequestState]
    """Residents whose prompt, or whose recomputation, is not finished."""


def stages(requests: RequestTable) -> Stages:
    decodes: list[RequestState] = []
    prefills: list[RequestState] = []
    for request in requests.residents:
        emitted = request.emitted_tokens
        is_decode = emitted and request.prompt_tokens + emitted - request.computed_tokens == 1
        (decodes if is_decode else prefills).append(request)
    return Stages(decodes=decodes, prefills=prefills)
