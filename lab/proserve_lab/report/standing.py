"""How our own policy stands against the others and against the bound, and what was aimed at."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from proserve_lab.report.cells import EXTRA, GRID, OURS, UNKNOWN, policy_names
from proserve_lab.report.markdown import percent, points, ratio, table
from proserve_lab.report.results import Place, Results, places

NOISE = 0.005
"""Half a point: what another policy may be ahead by."""
OVERLOADED = 1.2
"""Loads from here on count as overload."""
_RIVALS_TARGET = {"h100": 0.10, "h100-256": 0.10, "a100": 0.20}
TARGETS = {"qoserve": _RIVALS_TARGET, "density": _RIVALS_TARGET}
OTHERS_TARGET = 0.35
BOUND_TARGET, UNKNOWN_TARGET = 0.90, 0.95
REACHABLE = {
    "mooncake-conversation": 2.0,
    "mooncake-synthetic": 2.0,
    "r1": 2.0,
    "azure-conv": 1.2,
    "m-large": 1.0,
}
"""Highest load at which `BOUND_TARGET` is aimed at: where prompt lengths tell enough about output lengths."""


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
    found: list[Margin] = []
    for spot in spots:
        ours, best = results.tdg(spot, OURS), results.best_other(spot)
        if ours is not None and best is not None:
            found.append(Margin(spot, ours, best[1], best[0]))
    return found


def comparable(results: Results, spots: Iterable[Place], policy: str) -> list[Place]:
    """Places where both ours and `policy` have a result."""
    return [spot for spot in spots if results.tdg(spot, OURS) is not None and results.tdg(spot, policy) is not None]


def relative_gain(results: Results, spots: Sequence[Place], policy: str) -> float | None:
    """Sum of our gain over that of `policy`, less 1."""
    both = comparable(results, spots, policy)
    theirs = sum(results.tdg(spot, policy) or 0.0 for spot in both)
    return sum(results.tdg(spot, OURS) or 0.0 for spot in both) / theirs - 1 if theirs > 0 else None


def summary(results: Results) -> str:
    """The figures in a few sentences and two tables."""
    spots = list(places((*GRID, *EXTRA)))
    found = margins(results, spots)
    if not found:
        return "No results yet."
    behind = sorted((item for item in found if item.points < -NOISE), key=lambda item: item.points)
    ahead = sum(item.points > 0 for item in found)
    mean = sum(item.points for item in found) / len(found)
    worst = min(found, key=lambda item: item.points)
    lines = [
        f"`{OURS}` is compared with the best of the {len(policy_names()) - 1} others in each of {len(found)} places (a "
        f"trace at a load under some circumstances; {len(spots)} are planned), the best chosen with hindsight. It is "
        f"ahead in {ahead}, by {100 * mean:.1f} points in the mean over all. Its worst place is {worst.place} with "
        f"{points(worst.points)} points against `{worst.policy}`.",
        f"Places where another policy is more than half a point ahead: **{len(behind)}**"
        + ("." if not behind else ", listed below."),
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
    lines.append(_against_each(results))
    lines.append(_against_bound(results))
    return "\n\n".join(lines)


def overload_places(scenario: str) -> list[Place]:
    return [spot for spot in places([item for item in GRID if item.scenario == scenario]) if spot.load >= OVERLOADED]


def _against_each(results: Results) -> str:
    rows: list[list[str]] = []
    for policy in policy_names():
        if policy == OURS:
            continue
        cells: list[str] = []
        for item in GRID:
            value = relative_gain(results, overload_places(item.scenario), policy)
            aim = TARGETS.get(policy, {}).get(item.scenario, OTHERS_TARGET if policy not in TARGETS else None)
            text = percent(value)
            if value is not None and aim is not None:
                text += f" (aim {percent(aim)}{'' if value >= aim else ', missed'})"
            cells.append(text)
        every = list(places((*GRID, *EXTRA)))
        both = comparable(results, every, policy)
        theirs = [results.tdg(spot, policy) or 0.0 for spot in both]
        mean = sum(theirs) / len(theirs) if theirs else None
        rows.append([f"`{policy}`", *cells, ratio(mean)])
    mine = [value for spot in places((*GRID, *EXTRA)) if (value := results.tdg(spot, OURS)) is not None]
    rows.append([f"`{OURS}`", *["" for _ in GRID], ratio(sum(mine) / len(mine) if mine else None)])
    return (
        f"Gain of `{OURS}` over each other policy in overload (loads from {OVERLOADED:g} on, summed over the traces), "
        "and each policy's mean over all places:\n\n"
        + table(["policy", *[item.scenario for item in GRID], "mean gain"], rows)
    )


def _against_bound(results: Results) -> str:
    tables = [
        _shares(
            results,
            "",
            BOUND_TARGET,
            "Share of the clairvoyant bound that `{ours}` reaches, by load; {target:g} is aimed at where prompt "
            "lengths tell enough about output lengths",
            lambda workload, load: load <= REACHABLE.get(workload, 0.0),
        ),
        _shares(
            results,
            UNKNOWN,
            UNKNOWN_TARGET,
            "The same of the bound for policies that do not know output lengths; {target:g} is aimed at in the other "
            "overloads (clients and prefixes tell our policy more than this bound assumes, so more than 1 is possible)",
            lambda workload, load: load > REACHABLE.get(workload, 0.0),
        ),
    ]
    return "\n\n".join(text for text in tables if text) or "The bound has not been computed for any cell."


def _shares(
    results: Results, variant: str, target: float, says: str, aimed_at: Callable[[str, float], bool]
) -> str | None:
    """Ours over the bound in all places where both are known; None if there are none."""
    rows: list[list[str]] = []
    met = aims = 0
    for item in GRID:
        for workload in item.workloads:
            cells: list[str] = []
            for load in GRID[0].loads:
                spot = Place(item.scenario, workload, load)
                ours, bound = results.tdg(spot, OURS), results.bound(spot, variant)
                if ours is None or not bound:
                    cells.append("")
                    continue
                aimed, reached = aimed_at(workload, load), ours / bound >= target
                aims += aimed
                met += aimed and reached
                cells.append(ratio(ours / bound) + (" (missed)" if aimed and not reached else ""))
            if any(cells):
                rows.append([f"{item.scenario} {workload}", *cells])
    if not rows:
        return None
    return (
        says.format(ours=OURS, target=target)
        + f". Reached in {met} of {aims} such places.\n\n"
        + table(["trace", *[f"{load:g}" for load in GRID[0].loads]], rows)
    )
