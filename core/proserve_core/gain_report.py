"""What a gateway tells the operator: gain since it started, its engines, and what is wrong with resources it read.

Sums only grow, so whoever reads them at intervals knows what was added between, whatever was missed.
"""

import msgspec

from proserve_core.gain import GainTotals

REPORT_PATH = "/report"


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as a gateway sees it."""

    name: str
    """Of its pod."""
    pool: str
    """`name`, or `namespace/name` outside the namespace `default`."""
    ready: bool
    stake: float
    """Gain per step of the requests there: what their next tokens are worth."""


class GainReport(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `/report`."""

    instance: str
    """Random per process of a gateway: sums of another one begin anew."""
    classes: dict[str, GainTotals]
    tenants: dict[str, GainTotals]
    """By name, or `namespace/name`."""
    pools: dict[str, dict[str, GainTotals]]
    """By pool and class."""
    engines: list[EngineReport]
    loss_with_one_less: dict[str, float] = {}
    """By pool of two engines and more, see `proserve_core.scaling`."""
    open_requests: dict[str, int] = {}
    """By pool: requests that wait for an engine or run there; pools without any are left out."""
    problems: dict[str, list[str]] = {}
    """By `Kind/namespace/name`: what is wrong, keys that are not there included."""


def added(before: GainTotals, after: GainTotals) -> GainTotals:
    """What came to a sum between two reports of one gateway."""
    return GainTotals(
        requests=after.requests - before.requests,
        slo_attained=after.slo_attained - before.slo_attained,
        tokens=after.tokens - before.tokens,
        earned=after.earned - before.earned,
        earnable=after.earnable - before.earnable,
        lost={cause: more for cause, gain in after.lost.items() if (more := gain - before.lost.get(cause, 0.0)) > 0},
    )
