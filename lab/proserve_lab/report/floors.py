"""Our own policy beside the prototype of our prior simulation study, and what knowing clients is worth."""

from proserve_lab.report.cells import GRID, OURS, STUDY_ONLY
from proserve_lab.report.markdown import MISSING, points, ratio, table
from proserve_lab.report.prior_study import study_figures
from proserve_lab.report.results import Place, Results, places
from proserve_lab.report.standing import NOISE

CLIENT_TRACES = ("m-large", "r1")
"""Those that say which client sent a request."""
CLOSED = 1 / 3
"""Share of the distance between the study's policy and the same policy with true lengths that is to be closed."""


def floor_places() -> list[Place]:
    """Where the study has a figure and our policy is run."""
    return [spot for spot in places((*GRID, *STUDY_ONLY)) if study_figures(spot) is not None]


def above_floor(results: Results, spot: Place) -> float | None:
    """Ours less the study's figure."""
    ours, study = results.tdg(spot, OURS), study_figures(spot)
    return None if ours is None or study is None else ours - study.prototype


def distance_places() -> list[Place]:
    """Places of traces with clients where true lengths are worth more than half a point."""
    return [spot for spot in floor_places() if spot.workload in CLIENT_TRACES and _distance(spot) > NOISE]


def closed_share(results: Results, spot: Place) -> float | None:
    """How much of the distance to true lengths is closed; below 0 under the study's figure."""
    above = above_floor(results, spot)
    return None if above is None else above / _distance(spot)


def _distance(spot: Place) -> float:
    study = study_figures(spot)
    return 0.0 if study is None or study.lengths_known is None else study.lengths_known - study.prototype


def floors_table(results: Results) -> str:
    """The study's figure, ours and the difference in points; one row per scenario and trace."""
    rows: list[list[str]] = []
    loads = sorted({spot.load for spot in floor_places()})
    for scenario, workload in dict.fromkeys((spot.scenario, spot.workload) for spot in floor_places()):
        cells: list[str] = []
        for load in loads:
            spot = Place(scenario, workload, load)
            study = study_figures(spot) if spot in floor_places() else None
            ours, above = results.tdg(spot, OURS), above_floor(results, spot)
            if study is None:
                cells.append("")
            elif ours is None or above is None:
                cells.append(f"{ratio(study.prototype)} / {MISSING}")
            else:
                change = f"({points(above, 2)}) **below**" if above < -NOISE else f"({points(above)})"
                cells.append(f"{ratio(study.prototype)} / {ratio(ours)} {change}")
        rows.append([f"{scenario} {workload}", *cells])
    return (
        "The policy comes from our prior simulation study. Its figure / ours (difference in points), by load; "
        "**below** when ours is more than half a point less. The study had another simulator and another draw of the "
        "classes, did not see clients, and put at most 256 requests in a step: `h100-256` and `a100` are most alike, "
        "`h100` has 1,024 sequences. Another draw of the classes moves a figure by up to 0.8 points.\n\n"
        + table(["trace", *[f"{load:g}" for load in loads]], rows)
    )


def distances_table(results: Results) -> str:
    """What clients bring, on traces that name them, beside what true lengths would."""
    rows: list[list[str]] = []
    for spot in distance_places():
        study, share = study_figures(spot), closed_share(results, spot)
        if study is None:
            continue
        missed = " missed" if share is not None and share < CLOSED else ""
        rows.append(
            [
                str(spot),
                ratio(study.prototype),
                ratio(study.lengths_known),
                ratio(results.tdg(spot, OURS)),
                MISSING if share is None else f"{share:.0%}{missed}",
            ]
        )
    return (
        "On traces that name clients, a third of the distance between the study's policy and the same policy with true "
        "output lengths is to be closed by what is learned of clients and prefixes. Places where that distance is more "
        "than half a point:\n\n" + table(["place", "study", "study, true lengths", f"`{OURS}`", "closed"], rows)
    )
