"""The document on routing: docs/results/routing.md, made of stored results and nothing else."""

from collections.abc import Mapping, Sequence

from proserve_lab.report.carry_over import carried_note
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import OURS, Cell
from proserve_lab.report.markdown import MISSING, points, ratio, table, with_best_bold
from proserve_lab.report.results import HEAVY, LIGHT
from proserve_lab.report.routing_cells import (
    ENGINES,
    FLEETS,
    LOADS,
    MAIN,
    MOONCAKE,
    OTHERS,
    PAST_HITS,
    POOLED,
    ROWS,
    TELLING,
    TWO_TRACES,
    routers_of,
    routing_cells,
)
from proserve_lab.report.routing_pictures import FLEETS_PICTURE
from proserve_lab.report.routing_targets import LATE, OVERLOADS, RoutingPlace, above, gain_of, targets_table
from proserve_lab.report.workloads import TRACES

PICTURES = "routing"
"""Folder beside the document."""
CUTS = (MAIN, "later", "longer")
COMPARED = (*TELLING, "least-requests")
"""On several fleets."""


def routing_document(by_key: Mapping[str, CellResult]) -> str:
    """The document; it points to the pictures of `routing_pictures`."""
    cells = routing_cells()
    done = sum(cell.key in by_key for cell in cells)
    cpu_s = sum(found.cpu_s for found in by_key.values())
    rows = ", ".join(f"{workload} {count:,}" for workload, count in ROWS.items())
    shares = ", ".join(f"{fleet.title} {fleet.share:g}" for fleet in FLEETS.values() if fleet.share not in (1, 4))
    parts = [
        "# Routing",
        f"Written by `proserve report routing` from routing.jsonl beside it; do not edit. {done} of {len(cells)} cells "
        f"have a result; together they took {cpu_s / 60:.0f} minutes of one core.{carried_note(by_key)} "
        "docs/routing.md says what the routers do, and what the targets come to.",
        "Share of the possible gain. Load 1 is the sum of what the engines could serve alone, two classes with weights "
        f"2 and 1, half of the requests each. Requests for each engine: {rows}; times {shares}. Snapshots are 20 ms "
        f"old and there is one gateway, unless a fleet says otherwise. {MISSING}: not run. Empty: no cell of the grid.",
        "## Targets",
        targets_table(by_key),
        *(f"![engines that run {engine}]({PICTURES}/{engine}.svg)" for engine in ENGINES),
        f"![other fleets]({PICTURES}/{FLEETS_PICTURE}.svg)",
        "## How much another cut of the trace changes",
        "Points of `late-gain` above another router at load 1.2, on three cuts.",
        _cuts(by_key),
        "## What is left to win",
        f"Own engines on {MOONCAKE}. {_sentence(FLEETS[POOLED].title)} places nothing wrongly, computes each prompt "
        "four times as fast and finds every prefix: no router can be expected above it.",
        _left_to_win(by_key),
        f"## Routers: {FLEETS[MAIN].title}",
        *(_loads(by_key, engine, load) for engine in ENGINES for load in LOADS),
        "## Other fleets, load 1.2",
        *(_fleets(by_key, engine, workload) for engine in ENGINES for workload in TWO_TRACES),
        "## Every cell",
        _every_cell(by_key, cells),
    ]
    return "\n\n".join(parts) + "\n"


def _sentence(title: str) -> str:
    return title[0].upper() + title[1:]


def _cuts(by_key: Mapping[str, CellResult]) -> str:
    rows = []
    for engine in ENGINES:
        for workload in TWO_TRACES:
            for router in routers_of("later"):
                if router != LATE:
                    found = [above(by_key, RoutingPlace(cut, workload, 1.2, engine), [router]) for cut in CUTS]
                    rows.append([engine, workload, router, *(points(ahead and ahead[0]) for ahead in found)])
    return table(["engines", "trace", "above", *(FLEETS[cut].title for cut in CUTS)], rows, words=3)


def _left_to_win(by_key: Mapping[str, CellResult]) -> str:
    rows = []
    for load in (*OVERLOADS, PAST_HITS):
        main, pooled = (RoutingPlace(fleet, MOONCAKE, load, OURS) for fleet in (MAIN, POOLED))
        gains = (gain_of(by_key, main, "min-load"), gain_of(by_key, main, LATE), gain_of(by_key, pooled, "min-load"))
        least, late, most = gains
        rows.append([
            f"{load:g}",
            *map(ratio, gains),
            points(None if late is None or least is None else late - least),
            points(None if most is None or least is None else most - least),
        ])  # fmt: skip
    return table(["load", "min-load", "late-gain", "pooled", "late-gain above min-load", "pooled above min-load"], rows)


def _loads(by_key: Mapping[str, CellResult], engine: str, load: float) -> str:
    routers = (*TELLING, *OTHERS) if load == 1.2 else TELLING
    columns = [
        with_best_bold([gain_of(by_key, RoutingPlace(MAIN, workload, load, engine), router) for router in routers])
        for workload in TRACES
    ]
    rows = [[f"`{router}`", *(column[place] for column in columns)] for place, router in enumerate(routers)]
    kind = "our own engines" if engine == OURS else "stock engines"
    return f"{kind} (`{engine}`), load {load:g}:\n\n" + table(["router", *TRACES], rows)


def _fleets(by_key: Mapping[str, CellResult], engine: str, workload: str) -> str:
    rows = []
    for name, fleet in FLEETS.items():
        wanted = (*TELLING, *OTHERS) if name == MAIN else routers_of(name)
        place = RoutingPlace(name, workload, 1.2, engine)
        shown = with_best_bold([gain_of(by_key, place, router) for router in wanted])
        gains = dict(zip(wanted, shown, strict=True))
        rows.append([fleet.title, *(gains.get(router, "") for router in COMPARED)])
    return f"{workload}, engines `{engine}`:\n\n" + table(["fleet", *COMPARED], rows)


def _every_cell(by_key: Mapping[str, CellResult], cells: Sequence[Cell]) -> str:
    rows = []
    for cell in cells:
        found = by_key.get(cell.key)
        where = [f"{cell.scenario} {cell.workload} {cell.load:g}", f"`{cell.policy}`", cell.variant]
        if found is None:
            rows.append([*where, *[MISSING] * 7])
            continue
        classes = [None if (of := found.classes.get(name)) is None else of.tdg_ratio for name in (HEAVY, LIGHT)]
        figures = [ratio(value) for value in (found.tdg_ratio, *classes, found.slo_attainment)]
        rows.append([*where, f"{found.requests:,}", *figures, f"{found.preemptions:,}", f"{found.cpu_s:.0f}"])
    headings = ["cell", "router", "engines", "requests", "gain", HEAVY, LIGHT, "objectives met", "preemptions", "CPU s"]
    return table(headings, rows, words=3)
