"""What was aimed at, what came out, and a verdict that follows from the figures.

A target that speaks of places is met when all of them have been run and hold, missed as soon as one does not hold, and
until then open, or not run. It is never called met on a part of its places.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from proserve_lab.report.bound_shares import CLAIRVOYANT, LENGTHS_UNKNOWN, BoundAim
from proserve_lab.report.cells import GRID, policy_names
from proserve_lab.report.claim import Finding, Verdict
from proserve_lab.report.claims import CLAIMS
from proserve_lab.report.floors import CLOSED, above_floor, closed_share, distance_places, floor_places
from proserve_lab.report.markdown import percent, points, ratio, table
from proserve_lab.report.overload_sums import CLOSE_RIVALS, Lead, leads, other_rivals, published_slide
from proserve_lab.report.results import Place, Results
from proserve_lab.report.standing import NOISE, all_places, margins, overload_places

_SHOWN = 3
"""Of what fails, the worst are named."""


class State(StrEnum):
    MET = "met"
    MISSED = "**missed**"
    OPEN = "open"
    NOT_RUN = "not run"


class Item(msgspec.Struct, frozen=True):
    """One place, or one policy, of a target."""

    name: str
    above: float | None
    """By how much it is better than what is aimed at; None: not run."""
    says: str = ""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Something aimed at in several places."""

    what: str
    aim: str
    items: Sequence[Item]
    note: str = ""

    @property
    def run(self) -> list[Item]:
        return [item for item in self.items if item.above is not None]

    @property
    def failing(self) -> list[Item]:
        """The worst first."""
        return sorted((item for item in self.run if (item.above or 0.0) < 0), key=lambda item: item.above or 0.0)

    @property
    def state(self) -> State:
        if not self.run:
            return State.NOT_RUN
        if self.failing:
            return State.MISSED
        return State.MET if len(self.run) == len(self.items) else State.OPEN

    @property
    def here(self) -> str:
        """How many hold, and the worst of those that do not."""
        if not self.run:
            return f"0 of {len(self.items)} run"
        text = f"{len(self.run) - len(self.failing)} of {len(self.run)}"
        if len(self.run) < len(self.items):
            text += f" ({len(self.items)} planned)"
        if self.failing:
            worst = [f"{item.name} {item.says}".strip() for item in self.failing[:_SHOWN]]
            text += "; worst: " + ", ".join(worst)
        return text + self.note


def targets_table(results: Results) -> str:
    rows = [[target.what, target.aim, target.here, target.state.value] for target in all_targets(results)]
    rows += [
        [
            "planning costs less than vLLM's own `schedule()`, and p99 is below 1 ms with 2,000 waiting",
            "",
            "`proserve bench plan`, docs/performance.md",
            "measured there",
        ],
        ["the bound really bounds", "", "the tests compare it with exhaustive search", "proved there"],
    ]
    return table(["target", "aim", "holds in", "verdict"], rows, words=4)


def all_targets(results: Results) -> list[Target]:
    """Those that results decide."""
    return [
        Target(
            what="never below the prototype of our prior study",
            aim=_points_aim(NOISE, "below"),
            items=[_item(str(spot), above_floor(results, spot), -NOISE, points) for spot in floor_places()],
        ),
        _bound_target(results, CLAIRVOYANT, "share of the clairvoyant bound where prompt lengths tell enough"),
        _bound_target(results, LENGTHS_UNKNOWN, "share of the bound for unknown lengths elsewhere"),
        Target(
            what="clients close the distance to true lengths",
            aim=f"at least {CLOSED:.0%}",
            items=[
                _item(str(spot), closed_share(results, spot), CLOSED, "{:.0%}".format) for spot in distance_places()
            ],
        ),
        _nowhere_behind(results, all_places(), allowed=NOISE, what="never behind the best other policy of a place"),
        *_sum_targets(results),
        _nowhere_behind(
            results,
            [spot for item in GRID for spot in overload_places(item.scenario)],
            allowed=0.0,
            what="in overload never behind at all",
        ),
        Target(
            what="the papers' shapes are reproduced (last section)",
            aim="all",
            items=[_shape(claim.what, claim.check(results)) for claim in CLAIMS if claim.shape],
        ),
    ]


def _bound_target(results: Results, aim: BoundAim, what: str) -> Target:
    return Target(
        what=what,
        aim=f"at least {aim.share:g}",
        items=[_item(str(spot), aim.reached(results, spot), aim.share, ratio) for spot in aim.places()],
    )


def _nowhere_behind(results: Results, spots: Sequence[Place], *, allowed: float, what: str) -> Target:
    """A place counts when everybody has been run in it."""
    found = {item.place: item.points for item in margins(results, spots) if _everybody(results, item.place)}
    return Target(
        what=what,
        aim=_points_aim(allowed, "behind"),
        items=[_item(str(spot), found.get(spot), -allowed, points) for spot in spots],
    )


def _everybody(results: Results, spot: Place) -> bool:
    return all(results.tdg(spot, policy) is not None for policy in policy_names())


def _points_aim(allowed: float, word: str) -> str:
    return f"at most {100 * allowed:g} points {word}"


def _sum_targets(results: Results) -> list[Target]:
    """Sums in overload, one target for each aim."""
    found = leads(results)
    published = published_slide(results)
    return [
        _sum_target(
            [item for item in found if item.policy in policies and (item.scenario == "a100") == on_a100],
            machine,
            None if on_a100 else published,
        )
        for machine, on_a100 in (("H100", False), ("A100", True))
        for policies in (*((policy,) for policy in CLOSE_RIVALS), other_rivals())
    ]


def _sum_target(mine: Sequence[Lead], machine: str, published: float | None) -> Target:
    """A sum counts when all its places have been run."""
    policies = {item.policy for item in mine}
    who = f"`{policies.pop()}`" if len(policies) == 1 else "every other policy"
    failing = [item for item in mine if item.complete and item.value is not None and item.value < item.aim]
    beyond = sum(not item.possible for item in failing)
    notes = [f"; {beyond} of those that fail lie beyond the bound: impossible"] if beyond else []
    if published is not None and any(item.policy == "slide-batching" for item in failing):
        notes.append(f"; over `slide-batching` with its published starvation rule {percent(published)}")
    return Target(
        what=f"gain over {who} in overload, sums on {machine}",
        aim=f"at least {percent(mine[0].aim)}",
        items=[
            _item(f"{item.scenario} `{item.policy}`", item.value if item.complete else None, item.aim, _of_most(item))
            for item in mine
        ],
        note="".join(notes),
    )


def _of_most(item: Lead) -> Callable[[float], str]:
    most = "" if item.most is None else f" of at most {percent(item.most)}"
    return lambda value: percent(value) + most


def _item(name: str, value: float | None, least: float, show: Callable[[float], str]) -> Item:
    return Item(name, None) if value is None else Item(name, value - least, show(value))


def _shape(name: str, found: Finding | None) -> Item:
    if found is None:
        return Item(name, None)
    reproduced = found.verdict in (Verdict.REPRODUCED, Verdict.BETTER)
    return Item(name, 0.0 if reproduced else -1.0, f"({found.verdict.value})")
