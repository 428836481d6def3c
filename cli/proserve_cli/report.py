"""`proserve report ...`: documents made from measurements, with one command."""

import os
from pathlib import Path
from typing import Annotated

import typer

RESULTS = Path("docs/results")

Folder = Annotated[Path, typer.Option(help="Where results, document and pictures go.")]
Jobs = Annotated[int | None, typer.Option(help="Processes to simulate with.", show_default="one per core", min=1)]
Run = Annotated[bool, typer.Option("--run/--no-run", help="Run what is missing or outdated first.")]
CarryOver = Annotated[
    int | None,
    typer.Option(help="Run N outdated cells, and keep the others if no figure of those has changed.", min=1),
]

report_app = typer.Typer(name="report", help="Measure, and write the documents that show it.", no_args_is_help=True)


@report_app.command("batching")
def batching(
    *,
    folder: Folder = RESULTS,
    jobs: Jobs = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only cells that match: scenario/workload/load/policy with * and ?. Repeatable."),
    ] = None,
    run: Run = True,
    carry_over: CarryOver = None,
) -> None:
    """Simulate all batching policies over traces and loads, and write batching.md with its pictures.

    Results are kept in batching.jsonl as they come: what was interrupted goes on, and only cells whose code has changed
    are run again.
    """
    from proserve_cli.failures import needs_extra

    with needs_extra("report"):
        import matplotlib  # noqa: F401 - draws the pictures at the end, and a run takes hours
    with needs_extra("lab"):
        import highspy  # noqa: F401 - solves the bounds
    from proserve_cli.report_run import make_report
    from proserve_lab.report.reports import BATCHING

    make_report(BATCHING, folder=folder, jobs=jobs or _cores(), only=only or [], run=run, carry_over=carry_over)


@report_app.command("blocks")
def blocks(
    *,
    folder: Folder = RESULTS,
    jobs: Jobs = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only cells that match: GPU/workload/load/policy\\[part] with * and ?. Repeatable."),
    ] = None,
    run: Run = True,
    carry_over: CarryOver = None,
) -> None:
    """Simulate engines that are short of KV blocks, parts of the block management switched off, and write blocks.md.

    Results are kept in blocks.jsonl as they come: what was interrupted goes on.
    """
    from proserve_cli.failures import needs_extra

    with needs_extra("report"):
        import matplotlib  # noqa: F401 - draws the pictures at the end
    from proserve_cli.report_run import make_report
    from proserve_lab.report.reports import BLOCKS

    make_report(BLOCKS, folder=folder, jobs=jobs or _cores(), only=only or [], run=run, carry_over=carry_over)


@report_app.command("routing")
def routing(
    *,
    folder: Folder = RESULTS,
    jobs: Jobs = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only cells that match: fleet/workload/load/router\\[engines] with * and ?. Repeatable."),
    ] = None,
    run: Run = True,
    carry_over: CarryOver = None,
) -> None:
    """Simulate fleets of engines behind gateways, router by router, and write routing.md with its pictures.

    Results are kept in routing.jsonl as they come: what was interrupted goes on.
    """
    from proserve_cli.failures import needs_extra

    with needs_extra("report"):
        import matplotlib  # noqa: F401 - draws the pictures at the end
    from proserve_cli.report_run import make_report
    from proserve_lab.report.reports import ROUTING

    make_report(ROUTING, folder=folder, jobs=jobs or _cores(), only=only or [], run=run, carry_over=carry_over)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
