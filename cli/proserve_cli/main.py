"""The `proserve` command: one typer application, one module per command.

Commands import what they run only when they run, so that `proserve --help` is quick and a part that is not installed
is named together with the extra that brings it.
"""

import importlib.metadata
import logging
from typing import Annotated

import typer
from rich.console import Console

from proserve_cli.bench import bench_app
from proserve_cli.bound import bound
from proserve_cli.command_line import OneLineGroup
from proserve_cli.demo import demo
from proserve_cli.emulate import emulate
from proserve_cli.engine_commands import engine_app
from proserve_cli.explain import explain
from proserve_cli.gain import gain
from proserve_cli.gateway_command import gateway
from proserve_cli.logs import TEXT_LINE
from proserve_cli.operator_command import operator
from proserve_cli.replay import replay
from proserve_cli.report import report_app
from proserve_cli.simulate import simulate
from proserve_cli.status import status
from proserve_cli.up import up

app = typer.Typer(
    name="proserve",
    cls=OneLineGroup,
    help="Serves LLM requests of different importance on shared engines, so that important ones meet their targets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(up)
app.command()(gateway)
app.command()(operator)
app.command()(emulate)
app.command()(simulate)
app.command()(bound)
app.command()(status)
app.command()(gain)
app.command()(explain)
app.command()(replay)
app.add_typer(engine_app)
app.add_typer(bench_app)
app.add_typer(report_app)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        version = importlib.metadata.version("proserve")
    except importlib.metadata.PackageNotFoundError:
        version = "run from a source tree, not installed"
    Console().print(f"proserve {version}", highlight=False)
    raise typer.Exit


@app.callback()
def proserve(
    version: Annotated[  # noqa: ARG001 - acted upon by its callback
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, to stderr.")] = False,
) -> None:
    """Options of all commands."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format=TEXT_LINE,
    )
    # Its lines about starting and stopping say nothing that ours don't.
    logging.getLogger("uvicorn").setLevel(logging.INFO if verbose else logging.WARNING)


if __name__ == "__main__":
    app()
