"""`proserve bench route`: what a routing decision costs."""

import time
from typing import Annotated

import msgspec
import typer

from proserve_cli.failures import wrong_usage


def route(
    *,
    decisions: Annotated[int, typer.Option(help="Decisions to time per case.", min=10)] = 1000,
    router: Annotated[list[str] | None, typer.Option(help="Measure this policy only; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """CPU time of a routing decision at 64 and 256 engines, engines with room and without."""
    from proserve_core.routing import LATE_ROUTERS, ROUTERS
    from proserve_lab.bench.route_time import LOADS, TARGETS_US, measure, report

    known = sorted([*ROUTERS, *LATE_ROUTERS])
    for name in router or ():
        if name not in known:
            raise wrong_usage(f"--router: {name!r} does not exist; known: {', '.join(known)}")
    times = [
        measure(router=name, engines=engines, load=load, decisions=decisions, clock=time.thread_time)
        for engines in TARGETS_US
        for load in LOADS
        for name in router or known
    ]
    if json:
        typer.echo(msgspec.json.encode([{**msgspec.to_builtins(item), "met": item.met} for item in times]).decode())
    else:
        typer.echo(report(times))
