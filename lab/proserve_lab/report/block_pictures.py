"""Pictures of the report on KV blocks: missed gain without each part, by load."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from proserve_lab.report.block_cells import ABLATION, LOADS, POLICIES, ROWS
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell

_COLORS = ("#c0392b", "#34495e", "#d68910", "#7d3c98", "#229954", "#2471a3", "#7f8c8d")


def block_pictures(by_key: Mapping[str, CellResult]) -> dict[str, Figure]:
    """One picture per policy."""
    return {policy: _missed(by_key, policy) for policy in POLICIES}


def _missed(by_key: Mapping[str, CellResult], policy: str) -> Figure:
    """Bars: what is missed of the gain, on an H100."""
    figure = Figure(figsize=(3.6 * len(ROWS), 3.4))
    panels = figure.subplots(1, len(ROWS), squeeze=False)[0]
    figure.subplots_adjust(left=0.06, right=0.99, top=0.9, bottom=0.24, wspace=0.2)
    width = 0.8 / len(ABLATION)
    for axes, workload in zip(panels, ROWS, strict=True):
        axes.set_title(workload)
        for number, (variant, color) in enumerate(zip(ABLATION, _COLORS, strict=True)):
            missed = []
            for load in LOADS.values():
                cell = Cell(scenario="h100", workload=workload, load=load, policy=policy, variant=variant)
                found = by_key.get(cell.key)
                missed.append(0.0 if found is None else 1 - found.tdg_ratio)
            places = [place + (number - (len(ABLATION) - 1) / 2) * width for place in range(len(LOADS))]
            axes.bar(places, missed, width=width, color=color, label=variant)
        axes.set_xticks(range(len(LOADS)), [f"{name} load" for name in LOADS])
    panels[0].set_ylabel("missed gain")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=len(ABLATION))
    return figure
