"""What `proserve report batching` does: run what is missing, then write."""

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from proserve_cli.failures import failed, wrong_usage
from proserve_lab.report.cell_result import ResultStore, StoreError
from proserve_lab.report.cells import Cell, all_cells, matching
from proserve_lab.report.document import write_document
from proserve_lab.report.runner import Failure, RunProgress, missing_cells, run_cells

_LINE_EVERY = 20
"""Cells between two lines of progress where no bar can be drawn."""


def report_batching(*, folder: Path, jobs: int, only: Sequence[str], run: bool) -> None:
    """Exit code 1 when a cell fails, after all others are done; 2 for options or files that must change first."""
    store = ResultStore(folder / "batching.jsonl")
    cells = all_cells()
    wanted = matching(cells, only)
    if not wanted:
        raise wrong_usage(f"--only: no cell matches {', '.join(only)}; a cell is called {cells[0].key}")
    try:
        missing = missing_cells(wanted, store.load())
        Console(stderr=True).print(
            f"{len(wanted) - len(missing)} of {len(wanted)} cells are up to date", highlight=False
        )
        failures = _run_missing(missing, store, jobs=jobs) if run and missing else []
        stored = store.load()
        # Cells that were dropped from the report are in the file until it is rewritten.
        results = {cell.key: stored[cell.key] for cell in cells if cell.key in stored}
        if run:
            store.rewrite(list(results.values()))
        document = write_document(results, folder)
    except StoreError as error:
        raise wrong_usage(error) from error
    except OSError as error:
        raise failed(f"{error.filename}: {error.strerror}") from error
    Console(stderr=True).print(f"wrote {document}", highlight=False)
    if failures:
        raise failed(
            f"{len(failures)} of {len(wanted)} cells failed:\n"
            + "\n".join(f"  {failure.key}: {failure.error}" for failure in failures)
        )


def _run_missing(missing: Sequence[Cell], store: ResultStore, *, jobs: int) -> list[Failure]:
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(missing))

        def progress(made: RunProgress) -> None:
            bar.update(task, completed=made.done, description=made.last)
            if made.failed or (not console.is_terminal and made.done % _LINE_EVERY == 0):
                state = "failed" if made.failed else "done"
                console.print(f"{made.done}/{made.total} {made.last} {state}", highlight=False)

        try:
            return run_cells(missing, store, jobs=jobs, progress=progress)
        except BrokenProcessPool as error:
            raise failed(
                "a simulating process was killed, perhaps for lack of memory; results so far are kept: run the command "
                "again, with fewer --jobs"
            ) from error
