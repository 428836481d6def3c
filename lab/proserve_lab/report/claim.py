"""A claim of a paper, and what it comes to here. Verdicts are computed from results; reasons are ours."""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from proserve_lab.report.cells import GRID
from proserve_lab.report.results import Place, Results, places
from proserve_lab.report.standing import OVERLOADED

OVERLOAD = tuple(spot for spot in places(GRID[:1]) if spot.load >= OVERLOADED)


class Verdict(StrEnum):
    BETTER = "better"
    REPRODUCED = "reproduced"
    PARTLY = "in part"
    NOT = "not reproduced"
    UNKNOWN = "not run"


class Finding(msgspec.Struct, frozen=True):
    """What a claim comes to here."""

    ours: str
    verdict: Verdict


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    what: str
    theirs: str
    """In their set-up: other hardware, traces and objectives."""
    check: Callable[[Results], Finding | None]
    """None: not run."""
    why: str
    """What explains it when it is reproduced."""
    why_not: str
    """What explains it when it is not, or in part."""
    shape: bool = False
    """A curve's shape that a faithful reproduction should show, rather than a figure."""


def graded(value: float, claimed: float) -> Verdict:
    """Clearly more than claimed, about as much, something, or nothing."""
    if value >= 1.2 * claimed:
        return Verdict.BETTER
    if value >= 0.8 * claimed:
        return Verdict.REPRODUCED
    return Verdict.PARTLY if value > 0.01 else Verdict.NOT


def at(spot: Place) -> str:
    """The place, without the scenario that all claims are checked in."""
    return f"{spot.workload} {spot.load:g}"
