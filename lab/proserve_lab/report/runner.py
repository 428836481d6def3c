"""Runs cells over processes: each result is on disk when it is there, so an interrupted run goes on where it was.

A stored result whose fingerprint is outdated counts as missing. A cell that fails does not stop the others.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context

import msgspec

from proserve_lab.report.cell_result import CellResult
from proserve_lab.report.cells import Cell
from proserve_lab.report.run_cell import fingerprint, run_cell


class Failure(msgspec.Struct, frozen=True):
    """A cell that could not be computed."""

    key: str
    error: str


class RunProgress(msgspec.Struct, frozen=True, kw_only=True):
    """After each cell."""

    done: int
    total: int
    last: str
    failed: bool


def missing_cells(
    cells: Iterable[Cell], results: dict[str, CellResult], hashed: Callable[[Cell], str] | None = None
) -> list[Cell]:
    """Those without a result, or with one that the code would not give any more; `hashed`: not by `fingerprint`."""
    current = hashed or fingerprint
    return [cell for cell in cells if (found := results.get(cell.key)) is None or found.fingerprint != current(cell)]


def run_cells(
    cells: Sequence[Cell],
    keep: Callable[[CellResult], None],
    *,
    jobs: int,
    progress: Callable[[RunProgress], None],
    run: Callable[[Cell], CellResult] = run_cell,
) -> list[Failure]:
    """Run `cells` in order over `jobs` processes, keep each result as it comes; the failures.

    Raises:
        BrokenProcessPool: a process was killed.
    """
    failures: list[Failure] = []
    done = 0

    def settle(cell: Cell, outcome: Callable[[], CellResult]) -> None:
        nonlocal done
        failed = True
        try:
            keep(outcome())
            failed = False
        except BrokenProcessPool:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a policy raises is reported with its cell
            failures.append(Failure(cell.key, f"{type(error).__name__}: {error}"))
        done += 1
        progress(RunProgress(done=done, total=len(cells), last=cell.key, failed=failed))

    if jobs == 1:
        for cell in cells:
            settle(cell, lambda cell=cell: run(cell))  # type: ignore[misc]
        return failures
    with ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn")) as pool:
        running: dict[Future[CellResult], Cell] = {}
        left = iter(cells)
        try:
            while True:
                # Few ahead of the workers, so that Ctrl-C has little to wait for.
                for cell in islice(left, 2 * jobs - len(running)):
                    running[pool.submit(run, cell)] = cell
                if not running:
                    return failures
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    settle(running.pop(future), future.result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
