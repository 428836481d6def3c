"""From a trace to the requests of a replay: who sends each one, how long it is, how fast they come.

A trace has neither tenants nor classes: each request's tenant is drawn with a seed, so that every run of it sends the
same requests. Lengths are divided to fit a smaller model; arrivals keep their pattern at another rate.
"""

import random
from collections.abc import Sequence

import msgspec

from proserve_core.objectives import ServiceTerms
from proserve_lab.replay import ReplayRequest
from proserve_lab.trace import TraceRow, rescale


class TenantLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One sender and its part of the requests."""

    name: str
    api_key: str
    terms: ServiceTerms
    share: float
    """Part of the requests, relative to the other tenants' shares."""


class LengthScale(msgspec.Struct, frozen=True, kw_only=True):
    """How a trace's lengths become those of a smaller model."""

    divisor: float
    longest_prompt: int
    longest_output: int
    output_divisor: float | None = None
    """Of outputs; None: as that of prompts."""

    def prompt(self, tokens: int) -> int:
        return min(self.longest_prompt, max(1, round(tokens / self.divisor)))

    def output(self, tokens: int) -> int:
        return min(self.longest_output, max(1, round(tokens / (self.output_divisor or self.divisor))))


def build_requests(
    rows: Sequence[TraceRow], *, tenants: Sequence[TenantLoad], scale: LengthScale, rate: float, seed: int
) -> list[ReplayRequest]:
    """The requests of `rows` at a mean of `rate` per second, in order of arrival."""
    draw = random.Random(seed)
    senders = draw.choices(tenants, weights=[tenant.share for tenant in tenants], k=len(rows))
    return [
        ReplayRequest(
            id=f"{sender.name}-{number}",
            arrival_s=row.arrival_s,
            prompt_tokens=scale.prompt(row.prompt_tokens),
            output_tokens=scale.output(row.output_tokens),
            terms=sender.terms,
            api_key=sender.api_key,
        )
        for number, (row, sender) in enumerate(zip(rescale(rows, rate=rate), senders, strict=True))
    ]
