"""The reports: what each one runs, and what it writes of the results."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from matplotlib.figure import Figure

from proserve_lab.report.block_cells import block_cells
from proserve_lab.report.block_document import block_document
from proserve_lab.report.block_pictures import block_pictures
from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell, all_cells
from proserve_lab.report.document import batching_document
from proserve_lab.report.drawing import draw
from proserve_lab.report.pictures import batching_pictures
from proserve_lab.report.routing_cells import routing_cells
from proserve_lab.report.routing_document import routing_document
from proserve_lab.report.routing_pictures import routing_pictures
from proserve_lab.report.run_block_cell import block_fingerprint, run_block_cell
from proserve_lab.report.run_cell import fingerprint, run_cell
from proserve_lab.report.run_routing_cell import routing_fingerprint, run_routing_cell


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Cells that are simulated, and a document with pictures."""

    name: str
    """Of its files, and of the folder with its pictures."""
    cells: Callable[[], Sequence[Cell]]
    fingerprint: Callable[[Cell], str]
    simulate: Callable[[Cell], CellResult]
    document: Callable[[Mapping[str, CellResult]], str]
    pictures: Callable[[Mapping[str, CellResult]], Mapping[str, Figure]]

    def results_in(self, folder: Path) -> Path:
        """Where the results are kept."""
        return folder / f"{self.name}.jsonl"

    def write(self, by_key: Mapping[str, CellResult], folder: Path) -> Path:
        """Write document and pictures to `folder`; the document's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.md"
        path.write_text(self.document(by_key), encoding="utf-8")
        draw(lambda: self.pictures(by_key), folder / self.name)
        return path


BATCHING = Report(
    name="batching",
    cells=all_cells,
    fingerprint=fingerprint,
    simulate=run_cell,
    document=batching_document,
    pictures=batching_pictures,
)
BLOCKS = Report(
    name="blocks",
    cells=block_cells,
    fingerprint=block_fingerprint,
    simulate=run_block_cell,
    document=block_document,
    pictures=block_pictures,
)
ROUTING = Report(
    name="routing",
    cells=routing_cells,
    fingerprint=routing_fingerprint,
    simulate=run_routing_cell,
    document=routing_document,
    pictures=routing_pictures,
)
