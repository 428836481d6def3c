"""Pictures of the report on batching."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import GRID, OURS, policy_names
from proserve_lab.report.other_tables import alpha_figures
from proserve_lab.report.results import HEAVY, LIGHT, Place, Results

_COLORS = {
    OURS: "#c0392b",
    "slide-batching": "#2471a3",
    "qoserve": "#229954",
    "density": "#d68910",
    "sliding-serve": "#7d3c98",
    "fcfs": "#34495e",
    "sarathi": "#16a085",
    "priority": "#a04000",
    "edf": "#d4478c",
    "fair-batching": "#8c6d5a",
    "sarathi-priority": "#17a2d4",
    "srpf": "#9aa300",
    "weighted-vtc": "#888888",
}
_DASHES = {
    "edf": "--",
    "fair-batching": ":",
    "sarathi-priority": "-.",
    "srpf": (0, (5, 1)),
    "weighted-vtc": (0, (1, 1)),
}
"""Lines that often lie on others."""
_OTHERS = "black"
_LEGEND_INCHES = 0.7
BURST_PLACE = Place("burst", "azure-conv", 3.0)


def batching_pictures(by_key: Mapping[str, CellResult]) -> dict[str, Figure]:
    """All pictures by name."""
    results = Results(by_key)
    return {
        "tdg-by-load": _by_load(results.tdg, "share of the gain", bound=results.bound),
        "slo-by-load": _by_load(results.slo, "both objectives met"),
        "classes": _classes(results),
        "burst": _burst(results),
        "alpha": _alpha(results),
    }


def _panels(
    titles: Sequence[str], label: str, *, columns: int = 3, panel_inches: float = 3.6, legend: bool = True
) -> tuple[Figure, list[Axes]]:
    rows = -(-len(titles) // columns)
    below = _LEGEND_INCHES if legend else 0.0
    width, height = panel_inches * columns, 2.7 * rows + below
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns, squeeze=False)
    # By hand: automatic layout draws everything several times.
    figure.subplots_adjust(
        left=0.6 / width, right=1 - 0.15 / width, top=1 - 0.3 / height, bottom=(0.5 + below) / height,
        wspace=0.2, hspace=0.4,
    )  # fmt: skip
    axes = [axis for row in grid for axis in row][: len(titles)]
    for number, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        axis.set_title(title)
        if number % columns == 0:
            axis.set_ylabel(label)
    return figure, axes


def _legend(figure: Figure, axis: Axes, columns: int = 7, *, last_first: bool = False) -> None:
    handles, labels = axis.get_legend_handles_labels()
    order = slice(None, None, -1 if last_first else 1)
    figure.legend(handles[order], labels[order], loc="lower center", ncols=columns)


def _loads_below(axis: Axes, loads: Sequence[float]) -> None:
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("load")
    axis.set_xticks(loads, [f"{load:g}" for load in loads])


def _line(axis: Axes, points: Sequence[tuple[float, float | None]], **style: object) -> None:
    known = [(at, value) for at, value in points if value is not None]
    axis.plot([at for at, _ in known], [value for _, value in known], **style)  # type: ignore[arg-type]


def _by_load(
    figure_of: Callable[[Place, str], float | None],
    label: str,
    *,
    bound: Callable[[Place], float | None] | None = None,
) -> Figure:
    grid = GRID[0]
    figure, axes = _panels(grid.workloads, label)
    for axis, workload in zip(axes, grid.workloads, strict=True):
        spots = [Place(grid.scenario, workload, load) for load in grid.loads]
        for policy in reversed(policy_names()):
            style: dict[str, object] = {
                "color": _COLORS.get(policy, _OTHERS),
                "ls": _DASHES.get(policy, "-"),
                "lw": 2.2 if policy == OURS else 1.2,
            }
            _line(axis, [(spot.load, figure_of(spot, policy)) for spot in spots], label=policy, **style)
        if bound is not None:
            _line(axis, [(spot.load, bound(spot)) for spot in spots], label="bound", color="black", ls="--", lw=1)
        _loads_below(axis, grid.loads)
    # Drawn last and so on top: ours, and the bound.
    _legend(figure, axes[0], last_first=True)
    return figure


def _classes(results: Results) -> Figure:
    grid = GRID[0]
    figure, axes = _panels(grid.workloads, "share of the class's gain")
    for axis, workload in zip(axes, grid.workloads, strict=True):
        spots = [Place(grid.scenario, workload, load) for load in grid.loads]
        for policy in (OURS, "slide-batching", "qoserve", "priority", "fcfs"):
            for name, called, dashes in ((HEAVY, "heavy", "-"), (LIGHT, "light", ":")):
                shares = [(spot.load, results.class_tdg(spot, policy, name)) for spot in spots]
                _line(axis, shares, label=f"{policy}, {called}", color=_COLORS[policy], ls=dashes, lw=1.4)
        _loads_below(axis, grid.loads)
    _legend(figure, axes[0], columns=5)
    return figure


def _burst(results: Results) -> Figure:
    titles = ["slide-batching: Urgent", "requests in the engine"]
    figure, axes = _panels(titles, "share of the requests", columns=2, legend=False)
    found = results.find(BURST_PLACE, "slide-batching")
    # Seconds without a step are left out of the timeline: the engine is empty.
    busy = {} if found is None else {moment.second: moment for moment in found.timeline}
    seconds = range(max(busy, default=-1) + 1)
    urgent = [busy[second].urgent_share if second in busy else 0.0 for second in seconds]
    requests = [busy[second].requests if second in busy else 0.0 for second in seconds]
    axes[0].plot(seconds, urgent, color=_COLORS["slide-batching"])
    axes[1].plot(seconds, requests, color="black")
    axes[0].set_ylim(0, 1.02)
    for axis in axes:
        axis.set_xlabel("second")
    return figure


def _alpha(results: Results) -> Figure:
    figures = alpha_figures(results)
    figure, axes = _panels(["slide-batching by alpha"], "share of the gain", columns=1, panel_inches=6.5)
    for number, (spot, values) in enumerate(figures.items()):
        _line(
            axes[0], values, label=f"{spot.workload} {spot.load:g}", marker="o", ms=3, color=f"C{number // 2}",
            ls="-" if number % 2 == 0 else "--",
        )  # fmt: skip
    axes[0].set_xscale("log")
    axes[0].set_xlabel("alpha (1: default)")
    axes[0].set_ylim(0, 1.02)
    _legend(figure, axes[0], columns=3)
    return figure
