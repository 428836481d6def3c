"""The last requests of a gateway, for whoever asks what became of one: `proserve explain`, the console, the admin port.

Bounded: the oldest is forgotten when another one comes, whether it has ended or not. What a quota refused is kept
apart, or a tenant that floods would make everybody's requests forgotten.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from heapq import merge
from itertools import islice

from proserve_core.request_record import RequestRecord
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.seeing.accounting import Entry
from proserve_gateway.seeing.request_trail import RequestTrail

KEPT = 4096
"""Requests; about 2 kB each."""
KEPT_REFUSED = 256
"""Requests that a quota refused."""


class Decisions:
    """Trails of the last requests."""

    def __init__(self, *, clock: Callable[[], float], kept: int = KEPT) -> None:
        """`clock` is the one that stamps arrivals."""
        self._clock = clock
        self._kept = kept
        self._trails: OrderedDict[str, RequestTrail] = OrderedDict()
        self._refused: OrderedDict[str, RequestTrail] = OrderedDict()
        self.on_begin: list[Callable[[InferenceRequest, RequestTrail], None]] = []
        """Told each request before it goes anywhere."""
        self.on_end: list[Callable[[RequestTrail], None]] = []
        """Told each request that has ended."""

    def begin(self, request: InferenceRequest, entry: Entry, *, expected_prompt_tokens: int) -> RequestTrail:
        """A request will be sent to an engine."""
        trail = RequestTrail(
            request=request,
            expected_prompt_tokens=expected_prompt_tokens,
            entry=entry,
            clock=self._clock,
            on_end=self._ended,
        )
        if len(self._trails) >= self._kept:
            self._trails.popitem(last=False)
        self._trails[trail.id] = trail
        for told in self.on_begin:
            told(request, trail)
        return trail

    def over_quota(self, trail: RequestTrail) -> None:
        """The newest request or one of the newest was refused by a quota: it takes no place of others."""
        if self._trails.pop(trail.id, None) is None:
            return
        if len(self._refused) >= KEPT_REFUSED:
            self._refused.popitem(last=False)
        self._refused[trail.id] = trail

    @property
    def unix_offset_s(self) -> float:
        """What turns the times of arrivals into seconds since 1970."""
        return time.time() - self._clock()

    def record(self, trail: RequestTrail) -> RequestRecord:
        """What is known of a request now."""
        return trail.record(self.unix_offset_s)

    def get(self, request_id: str) -> RequestRecord | None:
        """What is known of a request; None: nothing, any more."""
        trail = self._trails.get(request_id) or self._refused.get(request_id)
        return None if trail is None else self.record(trail)

    def latest(self, count: int, *, wanted: Callable[[RequestTrail], bool] | None = None) -> list[RequestRecord]:
        """The newest requests, those that `wanted` refuses left out."""
        trails = merge(
            reversed(self._trails.values()),
            reversed(self._refused.values()),
            key=lambda trail: trail.entry.account.arrival_s,
            reverse=True,
        )
        return [self.record(trail) for trail in islice(filter(wanted, trails), count)]

    def _ended(self, trail: RequestTrail) -> None:
        for told in self.on_end:
            told(trail)
