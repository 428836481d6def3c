"""`proserve bench overload`: a replay at many times the capacity of emulated engines, through a real gateway."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import msgspec
import typer

from proserve_cli.failures import failed, needs_extra


def overload(
    *,
    times: Annotated[float, typer.Option(help="Load over what the engines can do.", min=0.1)] = 5.0,
    seconds: Annotated[float, typer.Option(help="Time over which requests arrive.", min=1)] = 30.0,
    seed: Annotated[int, typer.Option(help="Draws each request's class.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Who is served at 5 times the load, whether anybody is lost, and what the gateway's memory does."""
    with needs_extra("gateway"):
        import uvicorn  # noqa: F401 - the gateway runs as a process of its own
    from proserve_cli.local_engines import EngineStartError
    from proserve_cli.overload_run import report, run
    from proserve_lab.probe import ProbeError
    from proserve_lab.shipped_traces import shipped_trace
    from proserve_lab.trace import read_trace

    rows = read_trace(shipped_trace("azure-conv-2023"))
    try:
        with TemporaryDirectory(prefix="proserve-overload-") as folder:
            result = asyncio.run(run(rows=rows, overload=times, seconds=seconds, seed=seed, folder=Path(folder)))
    except (EngineStartError, ProbeError) as error:
        raise failed(error) from error
    if json:
        typer.echo(msgspec.json.encode({**msgspec.to_builtins(result), "missed": result.missed}).decode())
    else:
        typer.echo(report(result))
