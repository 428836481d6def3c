"""Every cell of the comparison: gain and objectives met by policy and load, and by class."""

from collections.abc import Callable, Sequence

from proserve_lab.report.cells import EXTRA, GRID, OVERLOADS, policy_names
from proserve_lab.report.markdown import NOT_RUN, ratio, table, with_best_bold
from proserve_lab.report.results import HEAVY, LIGHT, Place, Results, places
from proserve_lab.report.scenarios import SCENARIOS

Figure = Callable[[Place, str], float | None]


def by_load(results: Results) -> str:
    """H100: one table per trace with gain and objectives met."""
    parts: list[str] = []
    grid = GRID[0]
    for workload in grid.workloads:
        spots = [Place(grid.scenario, workload, load) for load in grid.loads]
        parts.append(f"**{workload}**, share of the gain, by load:")
        parts.append(_policies(spots, [f"{load:g}" for load in grid.loads], results.tdg, bound=results.bound))
        parts.append(f"**{workload}**, share of the requests that met both objectives, by load:")
        parts.append(_policies(spots, [f"{load:g}" for load in grid.loads], results.slo))
    return "\n\n".join(parts)


def other_circumstances(results: Results) -> str:
    """All others: one table each, gain only."""
    parts: list[str] = []
    for item in (*GRID[1:], *EXTRA):
        spots = list(places([item]))
        headings = [f"{spot.workload} {spot.load:g}" for spot in spots]
        parts.append(f"### {SCENARIOS[item.scenario].title}")
        if not any(results.tdg(spot, policy) is not None for spot in spots for policy in policy_names()):
            parts.append(NOT_RUN)
            continue
        with_bound = any(results.bound(spot) is not None for spot in spots)
        parts.append(_policies(spots, headings, results.tdg, bound=results.bound if with_bound else None))
    return "\n\n".join(parts)


def by_class(results: Results) -> str:
    """Heavy and light requests under overload."""
    parts: list[str] = []
    for item in (GRID[0], *EXTRA):
        spots = [spot for spot in places([item]) if item is not GRID[0] or spot.load in OVERLOADS]
        parts.append(f"**{SCENARIOS[item.scenario].title}**")
        if not any(results.class_tdg(spot, name, HEAVY) is not None for spot in spots for name in policy_names()):
            parts.append(NOT_RUN)
            continue
        headings = ["policy", *[f"{spot.workload} {spot.load:g}" for spot in spots]]
        rows = [
            [
                f"`{policy}`",
                *[
                    " / ".join(ratio(results.class_tdg(spot, policy, name)) for name in (HEAVY, LIGHT))
                    for spot in spots
                ],
            ]
            for policy in policy_names()
        ]
        parts.append(table(headings, rows))
    return "\n\n".join(parts)


def _policies(
    spots: Sequence[Place],
    headings: Sequence[str],
    figure: Figure,
    *,
    bound: Callable[[Place], float | None] | None = None,
) -> str:
    """Policies down, places across; the best of each place is bold."""
    names = policy_names()
    columns = [with_best_bold([figure(spot, name) for name in names]) for spot in spots]
    rows = [[f"`{name}`", *[column[at] for column in columns]] for at, name in enumerate(names)]
    if bound is not None:
        rows.append(["*bound*", *[ratio(bound(spot)) for spot in spots]])
    return table(["policy", *headings], rows)
