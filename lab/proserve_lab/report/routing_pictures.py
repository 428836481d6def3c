"""Pictures of the report on routing: gain over load by router on the main fleet, and routers beside each other on all
fleets."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.routing_cells import ENGINES, FEW, FLEETS, LOADS, MAIN, TELLING, TWO_TRACES
from proserve_lab.report.routing_targets import RoutingPlace, gain_of
from proserve_lab.report.workloads import TRACES

FLEETS_PICTURE = "fleets"
_COLORS = dict(zip(TELLING, ("#c0392b", "#34495e", "#d68910", "#7d3c98", "#7f8c8d"), strict=True))


def routing_pictures(by_key: Mapping[str, CellResult]) -> dict[str, Figure]:
    """One picture per batching policy of the engines, and one of all fleets."""
    return {engine: _over_load(by_key, engine) for engine in ENGINES} | {FLEETS_PICTURE: _over_fleets(by_key)}


def _over_load(by_key: Mapping[str, CellResult], engine: str) -> Figure:
    figure = Figure(figsize=(10.8, 6.0))
    panels = figure.subplots(2, 3, squeeze=False, sharex=True)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.95, bottom=0.13, hspace=0.2, wspace=0.2)
    for axes, workload in zip(panels.flat, TRACES, strict=True):
        axes.set_title(workload)
        for router, color in _COLORS.items():
            gains = [(load, gain_of(by_key, RoutingPlace(MAIN, workload, load, engine), router)) for load in LOADS]
            drawn = [(load, gain) for load, gain in gains if gain is not None]
            axes.plot(*zip(*drawn, strict=True) if drawn else ([], []), color=color, label=router, marker="o", ms=3)
    for axes in panels[:, 0]:
        axes.set_ylabel("gain")
    for axes in panels[-1]:
        axes.set_xlabel("load")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(TELLING))
    return figure


def _over_fleets(by_key: Mapping[str, CellResult]) -> Figure:
    """One dot per fleet and router; a row of panels for each kind of engines, a column for each trace."""
    figure = Figure(figsize=(10.8, 7.6))
    panels = figure.subplots(len(ENGINES), len(TWO_TRACES), squeeze=False, sharey=True)
    figure.subplots_adjust(left=0.3, right=0.99, top=0.95, bottom=0.1, hspace=0.2, wspace=0.05)
    for row, engine in zip(panels, ENGINES, strict=True):
        for axes, workload in zip(row, TWO_TRACES, strict=True):
            axes.set_title(f"{workload}, engines {engine}, load 1.2")
            for router in FEW:
                gains = [gain_of(by_key, RoutingPlace(fleet, workload, 1.2, engine), router) for fleet in FLEETS]
                drawn = [(gain, place) for place, gain in enumerate(gains) if gain is not None]
                axes.plot(
                    *zip(*drawn, strict=True) if drawn else ([], []),
                    color=_COLORS[router], label=router, marker="o", ls="", ms=5,
                )  # fmt: skip
            axes.set_yticks(range(len(FLEETS)), [fleet.title for fleet in FLEETS.values()])
            axes.set_ylim(len(FLEETS) - 0.5, -0.5)
            axes.set_xlabel("gain")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(FEW))
    return figure
