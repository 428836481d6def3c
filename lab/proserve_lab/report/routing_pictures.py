"""Pictures of the report on routing: gain over load by router, on the main fleet."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell
from proserve_lab.report.pictures import SETTINGS
from proserve_lab.report.routing_cells import ENGINES, LOADS, MAIN, TELLING
from proserve_lab.report.workloads import TRACES

_COLORS = ("#c0392b", "#34495e", "#7f8c8d", "#d68910", "#7d3c98", "#229954", "#2471a3")


def draw_routing_pictures(by_key: Mapping[str, CellResult], folder: Path) -> None:
    """Write one picture per batching policy of the engines to `folder`, under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(SETTINGS):
        for engine in ENGINES:
            _gain(by_key, engine).savefig(
                folder / f"{engine}.svg", format="svg", metadata={"Date": None, "Creator": None}
            )


def _gain(by_key: Mapping[str, CellResult], engine: str) -> Figure:
    figure = Figure(figsize=(10.8, 6.0))
    panels = figure.subplots(2, 3, squeeze=False, sharex=True)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.95, bottom=0.13, hspace=0.2, wspace=0.2)
    for axes, workload in zip(panels.flat, TRACES, strict=True):
        axes.set_title(workload)
        for router, color in zip(TELLING, _COLORS, strict=True):
            cells = [Cell(scenario=MAIN, workload=workload, load=load, policy=router, variant=engine) for load in LOADS]
            drawn = [(cell.load, by_key[cell.key].tdg_ratio) for cell in cells if cell.key in by_key]
            axes.plot(*zip(*drawn, strict=True) if drawn else ([], []), color=color, label=router, marker="o", ms=3)
    for axes in panels[:, 0]:
        axes.set_ylabel("gain")
    for axes in panels[-1]:
        axes.set_xlabel("load")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(TELLING))
    return figure
