"""The document on routing: docs/results/routing.md, made of stored results and nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from proserve_lab.report.carry_over import carried_note
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import OURS, Cell
from proserve_lab.report.markdown import MISSING, points, table, with_best_bold
from proserve_lab.report.routing_cells import (
    ENGINES,
    FLEETS,
    LOADS,
    MAIN,
    OTHERS,
    ROWS,
    TELLING,
    TWO_TRACES,
    routing_cells,
)
from proserve_lab.report.routing_pictures import draw_routing_pictures
from proserve_lab.report.workloads import TRACES

PICTURES = "routing"
"""Folder beside the document."""
LATE = "late-gain"
STOCK_TARGET, OWN_TARGET, MOONCAKE_TARGET, GATEWAYS_TARGET = 0.3, -0.005, 0.09, -0.01
"""Of docs/routing.md, as differences of gain."""


def write_routing_document(by_key: Mapping[str, CellResult], folder: Path) -> Path:
    """Write routing.md and its pictures to `folder`; the document's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "routing.md"
    path.write_text(routing_document(by_key), encoding="utf-8")
    draw_routing_pictures(by_key, folder / PICTURES)
    return path


def routing_document(by_key: Mapping[str, CellResult]) -> str:
    """The document; it points to the pictures of `draw_routing_pictures`."""
    cells = routing_cells()
    done = sum(cell.key in by_key for cell in cells)
    cpu_s = sum(found.cpu_s for found in by_key.values())
    rows = ", ".join(f"{workload} {count:,}" for workload, count in ROWS.items())
    parts = [
        "# Routing",
        f"Written by `proserve report routing` from routing.jsonl beside it; do not edit. {done} of {len(cells)} cells "
        f"have a result; together they took {cpu_s / 60:.0f} minutes of one core.{carried_note(by_key)} "
        "docs/routing.md says what the routers do.",
        "Share of the possible gain. Load 1 is the sum of what the engines could serve alone, two classes with weights "
        f"2 and 1, half of the requests each. Requests for each engine: {rows}. Snapshots are 20 ms old and there is "
        f"one gateway, unless a fleet says otherwise. {MISSING}: not run.",
        "## Targets",
        _targets(by_key),
        *(f"![engines that run {engine}]({PICTURES}/{engine}.svg)" for engine in ENGINES),
        f"## Every router: {FLEETS[MAIN].title}",
        *(_loads(by_key, engine, load) for engine in ENGINES for load in LOADS),
        "## Other fleets, load 1.2",
        *(_fleets(by_key, engine, workload) for engine in ENGINES for workload in TWO_TRACES),
    ]
    return "\n\n".join(parts) + "\n"


def gain_of(
    by_key: Mapping[str, CellResult], fleet: str, workload: str, load: float, router: str, engine: str
) -> float | None:
    """Gain of a cell; None if it has not been run."""
    found = by_key.get(Cell(scenario=fleet, workload=workload, load=load, policy=router, variant=engine).key)
    return None if found is None else found.tdg_ratio


def _targets(by_key: Mapping[str, CellResult]) -> str:
    stock, own = ENGINES
    at_once = [router for router in (*TELLING, *OTHERS) if router != LATE]
    mooncake = ("mooncake-conversation",)
    rows = [
        _target(by_key, "stock engines: late-gain above the best router that decides at once",
                STOCK_TARGET, [(MAIN, w, 1.2, stock, at_once) for w in TWO_TRACES]),
        _target(by_key, "own engines: late-gain above the best router",
                OWN_TARGET, [(MAIN, w, load, own, at_once) for w in TRACES for load in LOADS]),
        _target(by_key, "own engines, mooncake: late-gain above min-load",
                MOONCAKE_TARGET, [(MAIN, w, load, own, ["min-load"]) for w in mooncake for load in (1.0, 1.2, 1.5)]),
    ]  # fmt: skip
    for fleet in ("gateways-2", "gateways-4"):
        for engine in ENGINES:
            found = [
                (after - before, workload)
                for workload in TWO_TRACES
                if (after := gain_of(by_key, fleet, workload, 1.2, LATE, engine)) is not None
                and (before := gain_of(by_key, MAIN, workload, 1.2, LATE, engine)) is not None
            ]
            rows.append(_row(f"late-gain, {FLEETS[fleet].title}, engines {engine}: beside one", GATEWAYS_TARGET, found))
    return "Points of gain, the worst place of those that were run.\n\n" + table(
        ["target", "aim", "worst", "where", "places", "met"], rows, words=1
    )


def _target(
    by_key: Mapping[str, CellResult],
    name: str,
    aim: float,
    places: Sequence[tuple[str, str, float, str, Sequence[str]]],
) -> list[str]:
    """Late-gain beside the best of other routers."""
    found = []
    for fleet, workload, load, engine, routers in places:
        late = gain_of(by_key, fleet, workload, load, LATE, engine)
        others = [
            gain for router in routers if (gain := gain_of(by_key, fleet, workload, load, router, engine)) is not None
        ]
        if late is not None and others:
            found.append((late - max(others), f"{workload} {load:g}"))
    return _row(name, aim, found)


def _row(name: str, aim: float, found: Sequence[tuple[float, str]]) -> list[str]:
    if not found:
        return [name, points(aim), MISSING, MISSING, "0", MISSING]
    worst, where = min(found)
    return [name, points(aim), points(worst), where, str(len(found)), "yes" if worst >= aim else "no"]


def _loads(by_key: Mapping[str, CellResult], engine: str, load: float) -> str:
    routers = (*TELLING, *OTHERS)
    columns = [
        with_best_bold([gain_of(by_key, MAIN, workload, load, router, engine) for router in routers])
        for workload in TRACES
    ]
    rows = [[f"`{router}`", *(column[place] for column in columns)] for place, router in enumerate(routers)]
    kind = "our own engines" if engine == OURS else "stock engines"
    return f"{kind} (`{engine}`), load {load:g}:\n\n" + table(["router", *TRACES], rows)


def _fleets(by_key: Mapping[str, CellResult], engine: str, workload: str) -> str:
    columns = [
        with_best_bold([gain_of(by_key, fleet, workload, 1.2, router, engine) for router in TELLING])
        for fleet in FLEETS
    ]
    rows = [[f"`{router}`", *(column[place] for column in columns)] for place, router in enumerate(TELLING)]
    return f"{workload}, engines `{engine}`:\n\n" + table(["router", *FLEETS], rows)
