"""`proserve bench soak`: whether the gateway's memory and descriptors stay flat under mixed traffic."""

from typing import Annotated

import msgspec
import typer

from proserve_cli.failures import FAILED, failed, needs_extra


def soak(
    *,
    minutes: Annotated[float, typer.Option(help="How long.", min=0.2)] = 60.0,
    rate: Annotated[float, typer.Option(help="Requests per second.", min=1)] = 50.0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Streams, whole replies, clients that leave, bad keys and bad bodies. Status 1 if an answer was not right."""
    with needs_extra("gateway"):
        import uvloop  # noqa: F401 - the gateway runs as a process of its own
    from proserve_lab.bench.proxies import BenchError
    from proserve_lab.bench.soak import report, run

    try:
        result = run(minutes=minutes, rate=rate, say=lambda line: typer.echo(line, err=True))
    except BenchError as error:
        raise failed(error) from error
    if json:
        typer.echo(msgspec.json.encode(result).decode())
    else:
        for line in report(result):
            typer.echo(line)
    if result.failures:
        raise typer.Exit(FAILED)
