"""How our own policy stands against the best other one, place by place."""

from collections.abc import Iterable

import msgspec

from proserve_lab.report.cells import EXTRA, GRID, OURS, policy_names
from proserve_lab.report.markdown import points, ratio, table
from proserve_lab.report.results import Place, Results, places

NOISE = 0.005
"""Half a point: what another policy may be ahead by."""
OVERLOADED = 1.2
"""Loads from here on count as overload."""


class Margin(msgspec.Struct, frozen=True):
    """Ours less the best other policy."""

    place: Place
    ours: float
    other: float
    policy: str

    @property
    def points(self) -> float:
        return self.ours - self.other


def margins(results: Results, spots: Iterable[Place]) -> list[Margin]:
    """Where ours and all others have been run."""
    found: list[Margin] = []
    for spot in spots:
        ours, best = results.tdg(spot, OURS), results.best_other(spot)
        if ours is not None and best is not None:
            found.append(Margin(spot, ours, best[1], best[0]))
    return found


def all_places() -> list[Place]:
    """Where all policies are compared."""
    return list(places((*GRID, *EXTRA)))


def overload_places(scenario: str) -> list[Place]:
    return [spot for spot in places([item for item in GRID if item.scenario == scenario]) if spot.load >= OVERLOADED]


def summary(results: Results) -> str:
    """The figures in a few sentences, the places where another policy is clearly ahead, and everybody's mean."""
    found = margins(results, all_places())
    if not found:
        return "No results yet."
    behind = sorted((item for item in found if item.points < -NOISE), key=lambda item: item.points)
    ahead = sum(item.points > 0 for item in found)
    mean = sum(item.points for item in found) / len(found)
    worst = min(found, key=lambda item: item.points)
    lines = [
        f"`{OURS}` is compared with the best of the {len(policy_names()) - 1} others in each place: a trace at a load "
        f"under some circumstances. Which one is best is chosen afterwards, for each place anew. {len(found)} of "
        f"{len(all_places())} places have been run. It is ahead in {ahead}, and by {100 * mean:.1f} points of gain in "
        f"the mean over all. Its worst place is {worst.place}: {points(worst.points)} points against `{worst.policy}`.",
        f"Places where another policy is more than half a point ahead: **{len(behind)}**"
        + ("." if not behind else ", listed here."),
    ]
    if behind:
        lines.append(
            table(
                ["place", OURS, "best other", "points"],
                [
                    [str(item.place), ratio(item.ours), f"`{item.policy}` {ratio(item.other)}", points(item.points)]
                    for item in behind
                ],
            )
        )
    lines.append(_means(results, [item.place for item in found]))
    return "\n\n".join(lines)


def _means(results: Results, spots: list[Place]) -> str:
    """Every policy's mean over the same places."""
    rows: list[tuple[float, list[str]]] = []
    for policy in policy_names():
        gains = [value for spot in spots if (value := results.tdg(spot, policy)) is not None]
        met = [value for spot in spots if (value := results.slo(spot, policy)) is not None]
        if gains:
            mean = sum(gains) / len(gains)
            rows.append((mean, [f"`{policy}`", ratio(mean), ratio(sum(met) / len(met)), str(len(gains))]))
    rows.sort(key=lambda row: -row[0])
    return "Means over these places:\n\n" + table(
        ["policy", "share of the gain", "both objectives met", "places"], [row for _, row in rows]
    )
