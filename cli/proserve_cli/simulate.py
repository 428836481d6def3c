"""`proserve simulate`: one policy on one trace in virtual time."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def simulate(
    *,
    trace: Annotated[
        Path, typer.Option(help="CSV (or .gz) with arrival_s, prompt_tokens, output_tokens; or a shipped one, by name.")
    ],
    calibration: Annotated[str, typer.Option(help="Whose step times and limits, e.g. h100-llama-3.1-8b.")],
    policy: Annotated[str, typer.Option(help="Batching policy of the engines.")],
    router: Annotated[str, typer.Option(help="Routing policy; on one replica only late-gain matters.")] = "round-robin",
    replicas: Annotated[int, typer.Option(help="Number of engines.", min=1)] = 1,
    gateways: Annotated[int, typer.Option(help="Number of gateways; none sees what another one sends.", min=1)] = 1,
    staleness_ms: Annotated[float, typer.Option(help="Age at which gateways see capacity snapshots.", min=0)] = 20,
    prefix_cache: Annotated[
        bool, typer.Option("--prefix-cache", help="Engines keep prompts' beginnings (trace with prefix_hash_ids).")
    ] = False,
    rate: Annotated[float | None, typer.Option(help="Mean arrivals per second.", show_default="as recorded")] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first N rows.", min=1)] = None,
    classes: Annotated[Path | None, typer.Option(help="YAML with PriorityClass documents and their shares.")] = None,
    seed: Annotated[int, typer.Option(help="Decides each request's class.", min=0)] = 0,
    kv_blocks: Annotated[
        int | None, typer.Option(help="KV blocks of an engine.", show_default="as calibrated", min=1)
    ] = None,
    kv_offload: Annotated[
        str | None,
        typer.Option(
            help="Keep KV blocks of preempted requests in host memory: JSON, see docs/blocks.md.", metavar="JSON"
        ),
    ] = None,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="What goes to stdout.")] = "table",
    token_log: Annotated[Path | None, typer.Option(help="Write one JSON line per request to this file.")] = None,
) -> None:
    """Simulate engines on a trace: gain, objectives met and plan time of a policy, deterministic by seed."""
    from proserve_cli.simulate_run import SimulationOptions, run

    run(
        SimulationOptions(
            trace=trace, calibration=calibration, policy=policy, router=router, replicas=replicas,
            gateways=gateways, staleness_ms=staleness_ms, prefix_cache=prefix_cache, rate=rate,
            limit=limit, classes=classes, seed=seed, kv_blocks=kv_blocks, kv_offload=kv_offload, output=output,
            token_log=token_log,
        )
    )  # fmt: skip
