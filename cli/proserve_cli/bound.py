"""`proserve bound`: what no policy can exceed on a trace."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def bound(
    *,
    trace: Annotated[
        Path, typer.Option(help="CSV (or .gz) with arrival_s, prompt_tokens, output_tokens; or a shipped one, by name.")
    ],
    calibration: Annotated[str, typer.Option(help="Whose step times and limits, e.g. h100-llama-3.1-8b.")],
    replicas: Annotated[int, typer.Option(help="Number of engines.", min=1)] = 1,
    rate: Annotated[float | None, typer.Option(help="Mean arrivals per second.", show_default="as recorded")] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first N rows.", min=1)] = None,
    classes: Annotated[Path | None, typer.Option(help="YAML with PriorityClass documents and their shares.")] = None,
    seed: Annotated[int, typer.Option(help="Decides each request's class, as in `simulate`.", min=0)] = 0,
    lengths: Annotated[
        Literal["known", "unknown"],
        typer.Option(help="unknown: for policies that know of an output only its prompt's length."),
    ] = "known",
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="What goes to stdout.")] = "table",
) -> None:
    """Bound the share of the gain that any policy, clairvoyant ones included, can earn on a trace."""
    from proserve_cli.bound_run import BoundOptions, run

    run(
        BoundOptions(
            trace=trace, calibration=calibration, replicas=replicas, rate=rate, limit=limit, classes=classes,
            seed=seed, lengths=lengths, output=output,
        )
    )  # fmt: skip
