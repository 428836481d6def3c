"""`proserve replay`: what recorded traffic would have got otherwise."""

from pathlib import Path
from typing import Annotated

import typer

from proserve_cli.admin_client import Format


def replay(
    *,
    files: Annotated[
        list[Path], typer.Argument(help="What `proserve gateway --record` wrote, of all gateways.", metavar="FILE...")
    ],
    pool: Annotated[str | None, typer.Option(help="Whose requests; needed if there are several pools.")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="PriorityClass documents (YAML): requests of these classes get their terms.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Batching policy of the engines.", show_default="as recorded")
    ] = None,
    router: Annotated[str | None, typer.Option(help="Routing policy.", show_default="as recorded")] = None,
    replicas: Annotated[int | None, typer.Option(help="Number of engines.", show_default="as recorded", min=1)] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Engines of another kind, e.g. h100-llama-3.1-8b.", show_default="as they told of themselves"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first N requests.", min=1)] = None,
    output: Annotated[Format, typer.Option("--format", help="What goes to stdout.")] = Format.TABLE,
) -> None:
    """Simulate recorded requests on the engines that served them, and again with other classes, policies or engines.

    Shows per class what was, what the simulator makes of it, and what would have been: the first two tell how far to
    trust the third.
    """
    from proserve_cli.replay_run import Changes, run

    run(
        files,
        changes=Changes(
            classes=classes, policy=policy, router=router, replicas=replicas, calibration=calibration
        ),
        pool=pool,
        limit=limit,
        output=output,
    )  # fmt: skip
