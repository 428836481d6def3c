"""What `proserve report` does: run what is missing, then write."""

from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from proserve_cli.failures import failed, wrong_usage
from proserve_lab.report.carry_over import carried_over, differences, draw_sample, outdated_cells
from proserve_lab.report.cell_result import CellResult, ResultStore, StoreError
from proserve_lab.report.cells import Cell, matching
from proserve_lab.report.reports import Report
from proserve_lab.report.runner import Failure, RunProgress, missing_cells, run_cells

_LINE_EVERY = 20
"""Cells between two lines of progress where no bar can be drawn."""


def make_report(
    report: Report, *, folder: Path, jobs: int, only: Sequence[str], run: bool, carry_over: int | None
) -> None:
    """Exit code 1 when a cell fails, after all others are done; 2 for options or files that must change first."""
    if carry_over and not run:
        raise wrong_usage("--carry-over runs cells again: leave out --no-run")
    store = ResultStore(report.results_in(folder))
    cells = report.cells()
    wanted = matching(cells, only)
    if not wanted:
        raise wrong_usage(f"--only: no cell matches {', '.join(only)}; a cell is called {cells[0].key}")
    try:
        if carry_over:
            _carry_over(report, wanted, store, count=carry_over, jobs=jobs)
        missing = missing_cells(wanted, store.load(), report.fingerprint)
        Console(stderr=True).print(
            f"{len(wanted) - len(missing)} of {len(wanted)} cells are up to date", highlight=False
        )
        failures = _run(missing, store.append, jobs=jobs, simulate=report.simulate) if run and missing else []
        stored = store.load()
        # Cells that were dropped from the report are in the file until it is rewritten.
        results = {cell.key: stored[cell.key] for cell in cells if cell.key in stored}
        if run:
            store.rewrite(list(results.values()))
        document = report.write(results, folder)
    except StoreError as error:
        raise wrong_usage(error) from error
    except OSError as error:
        raise failed(f"{error.filename}: {error.strerror}") from error
    Console(stderr=True).print(f"wrote {document}", highlight=False)
    if failures:
        raise _failed_cells(failures, len(wanted))


def _carry_over(report: Report, cells: Sequence[Cell], store: ResultStore, *, count: int, jobs: int) -> None:
    """Make outdated results current if a sample of them comes out as before; exit code 1 if it does not."""
    results = store.load()
    outdated = outdated_cells(cells, results, report.fingerprint)
    if not outdated:
        return
    sample = draw_sample(outdated, count, report.fingerprint)
    again: dict[str, CellResult] = {}

    def keep(result: CellResult) -> None:
        again[result.key] = result

    failures = _run(sample, keep, jobs=jobs, simulate=report.simulate)
    if failures:
        raise _failed_cells(failures, len(sample))
    changed = {key: found for key, result in again.items() if (found := differences(results[key], result))}
    if changed:
        raise failed(
            f"{len(changed)} of {len(sample)} cells came out differently, nothing is carried over:\n"
            + "\n".join(f"  {key}: {', '.join(found)}" for key, found in changed.items())
        )
    rest = [cell for cell in outdated if cell.key not in again]
    carried = carried_over(rest, results, report.fingerprint, checked=len(sample))
    results |= again | {result.key: result for result in carried}
    store.rewrite(list(results.values()))
    Console(stderr=True).print(
        f"{len(sample)} of {len(outdated)} outdated cells came out as before, the others are carried over",
        highlight=False,
    )


def _failed_cells(failures: Sequence[Failure], of: int) -> typer.Exit:
    return failed(
        f"{len(failures)} of {of} cells failed:\n"
        + "\n".join(f"  {failure.key}: {failure.error}" for failure in failures)
    )


def _run(
    cells: Sequence[Cell],
    keep: Callable[[CellResult], None],
    *,
    jobs: int,
    simulate: Callable[[Cell], CellResult],
) -> list[Failure]:
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(cells))

        def progress(made: RunProgress) -> None:
            bar.update(task, completed=made.done, description=made.last)
            if made.failed or (not console.is_terminal and made.done % _LINE_EVERY == 0):
                state = "failed" if made.failed else "done"
                console.print(f"{made.done}/{made.total} {made.last} {state}", highlight=False)

        try:
            return run_cells(cells, keep, jobs=jobs, progress=progress, run=simulate)
        except BrokenProcessPool as error:
            raise failed(
                "a simulating process was killed, perhaps for lack of memory: run the command again, with fewer --jobs"
            ) from error
