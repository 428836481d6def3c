"""What routing is meant to reach, beside what stored results say."""

from collections.abc import Mapping, Sequence
from statistics import mean

import msgspec

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import OURS, Cell
from proserve_lab.report.markdown import MISSING, points, table
from proserve_lab.report.routing_cells import ENGINES, FLEETS, LOADS, MAIN, MOONCAKE, OTHERS, STOCK, TELLING, TWO_TRACES
from proserve_lab.report.workloads import TRACES

LATE = "late-gain"
AT_ONCE = tuple(router for router in (*TELLING, *OTHERS) if router != LATE)
"""Routers that decide when a request arrives."""
OVERLOADS = (1.0, 1.2, 1.5)


class RoutingPlace(msgspec.Struct, frozen=True):
    """Where routers are compared."""

    fleet: str
    workload: str
    load: float
    engine: str

    def __str__(self) -> str:
        return f"{self.workload} {self.load:g}"


def result_of(by_key: Mapping[str, CellResult], place: RoutingPlace, router: str) -> CellResult | None:
    """What is known of a cell; None if it has not been run."""
    cell = Cell(
        scenario=place.fleet, workload=place.workload, load=place.load, policy=router, variant=place.engine
    )  # fmt: skip
    return by_key.get(cell.key)


def gain_of(by_key: Mapping[str, CellResult], place: RoutingPlace, router: str) -> float | None:
    """Share of the possible gain in a cell; None if it has not been run."""
    found = result_of(by_key, place, router)
    return None if found is None else found.tdg_ratio


def above(
    by_key: Mapping[str, CellResult], place: RoutingPlace, others: Sequence[str] = AT_ONCE
) -> tuple[float, str] | None:
    """By how much `late-gain` is above the best of other routers, and which one that is."""
    late = gain_of(by_key, place, LATE)
    found = [(gain, router) for router in others if (gain := gain_of(by_key, place, router)) is not None]
    if late is None or not found:
        return None
    best, router = max(found)
    return late - best, router


def targets_table(by_key: Mapping[str, CellResult]) -> str:
    """Each target with the figure that judges it."""
    own = [RoutingPlace(MAIN, workload, load, OURS) for workload in TRACES for load in LOADS]
    mooncake = [RoutingPlace(MAIN, MOONCAKE, load, OURS) for load in OVERLOADS]
    rows = [
        _mean_above_each(by_key),
        _worst("own engines: late-gain above the best other router", -0.005, _each_above(by_key, own, AT_ONCE)),
        _mean(
            "own engines: late-gain above min-load, all traces and loads", 0.01, _each_above(by_key, own, ["min-load"])
        ),
        _worst("own engines, mooncake: late-gain above min-load", 0.09, _each_above(by_key, mooncake, ["min-load"])),
    ]
    for fleet, aim in (("gateways-2", -0.01), ("gateways-4", -0.01), ("stale-100", -0.005), ("stale-500", -0.01)):
        for engine in ENGINES if fleet.startswith("gateways") else (OURS,):
            name = f"late-gain, {FLEETS[fleet].title}, engines {engine}: beside {FLEETS[MAIN].title}"
            rows.append(_worst(name, aim, _each_beside_main(by_key, fleet, engine)))
    return table(["target, points of gain", "aim", "figure", "which", "places", "met"], rows)


def _each_above(
    by_key: Mapping[str, CellResult], places: Sequence[RoutingPlace], others: Sequence[str]
) -> list[tuple[float, str]]:
    found = [(above(by_key, place, others), place) for place in places]
    return [(ahead[0], f"{place}, {ahead[1]}") for ahead, place in found if ahead is not None]


def _each_beside_main(by_key: Mapping[str, CellResult], fleet: str, engine: str) -> list[tuple[float, str]]:
    found = []
    for workload in TWO_TRACES:
        changed, main = (gain_of(by_key, RoutingPlace(each, workload, 1.2, engine), LATE) for each in (fleet, MAIN))
        if changed is not None and main is not None:
            found.append((changed - main, workload))
    return found


def _mean_above_each(by_key: Mapping[str, CellResult]) -> list[str]:
    """Over stock engines, of the router that comes nearest to late-gain in the mean of all traces and loads."""
    places = [RoutingPlace(MAIN, workload, load, STOCK) for workload in TRACES for load in LOADS]
    found = []
    for router in TELLING:
        each = [] if router == LATE else _each_above(by_key, places, [router])
        if each:
            found.append((mean(ahead for ahead, _ in each), router, len(each)))
    name, aim = "stock engines: mean of late-gain above any router that decides at once", 0.3
    if not found:
        return _row(name, aim, None, MISSING, 0)
    ahead, router, count = min(found)
    return _row(name, aim, ahead, f"all traces and loads, {router}", count)


def _mean(name: str, aim: float, found: Sequence[tuple[float, str]]) -> list[str]:
    return _row(name, aim, mean(ahead for ahead, _ in found) if found else None, "mean", len(found))


def _worst(name: str, aim: float, found: Sequence[tuple[float, str]]) -> list[str]:
    ahead, where = min(found, default=(None, MISSING))
    return _row(name, aim, ahead, f"worst: {where}", len(found))


def _row(name: str, aim: float, figure: float | None, which: str, places: int) -> list[str]:
    if figure is None:
        return [name, points(aim), MISSING, MISSING, "0", MISSING]
    return [name, points(aim), points(figure), which, str(places), "yes" if figure >= aim else "no"]
