"""`proserve bench headroom`: what a heavy class gets in a burst, with and without headroom, and what it costs."""

from typing import Annotated, Literal

import msgspec
import typer

from proserve_cli.failures import wrong_usage


def headroom(
    *,
    trace: Annotated[str, typer.Option(help="Shipped trace whose requests are drawn from.")] = "azure-conv-2023",
    policy: Annotated[str, typer.Option(help="Batching policy of the engines.")] = "recoverable-gain",
    replicas: Annotated[int, typer.Option(help="Number of engines.", min=1)] = 2,
    percent: Annotated[int, typer.Option(help="Headroom of the heavy class.", min=1, max=100)] = 95,
    mode: Annotated[Literal["Entitlement", "Reserve"], typer.Option(help="Of the headroom.")] = "Entitlement",
    seed: Annotated[int, typer.Option(help="Draws requests and arrivals.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Simulate a burst to 1.9 times saturation: TDG ratio by class with and without headroom, next to the targets."""
    from proserve_core.batching.registry import PolicyError, make_policy
    from proserve_lab.bench.headroom_burst import headroom_of, missed, report, run

    try:
        make_policy(policy)
        without = run(trace=trace, policy=policy, replicas=replicas, seed=seed, headroom=None)
    except (PolicyError, ValueError) as error:
        raise wrong_usage(error) from error
    held = run(trace=trace, policy=policy, replicas=replicas, seed=seed, headroom=headroom_of(percent, mode))
    if json:
        body = {"without": without, "with": held, "missed": missed(without, held)}
        typer.echo(msgspec.json.encode(body).decode())
    else:
        typer.echo(report(without, held))
