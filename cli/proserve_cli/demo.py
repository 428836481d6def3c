"""`proserve demo`: the same overload from a real trace under several policies, and what each class got.

The policies are those of the engines or, with `--stock`, those of the gateway in front of engines that have none.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from proserve_cli.comparison import policy_names, router_names, show
from proserve_cli.engine_kind import EngineKind
from proserve_cli.failures import failed, needs_extra, wrong_usage

POLICIES = "fcfs,slide-batching,recoverable-gain"
ROUTERS = "round-robin,least-requests,late-gain"


def demo(
    *,
    engine: Annotated[
        EngineKind | None, typer.Option(help="What runs as engines (default: vllm, emulated where there is no vLLM).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    runs: Annotated[int, typer.Option(help="Repeat the comparison.", min=1, max=20)] = 1,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="CSV (or .gz) with arrival_s, prompt_tokens, output_tokens; or a shipped one, by name.",
            show_default="azure-conv-slice",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Send at most this many requests per replay.", min=1)] = None,
    stock: Annotated[
        bool, typer.Option("--stock", help="Engines with their own scheduler; compare the gateway's policies instead.")
    ] = False,
    policies: Annotated[
        str | None,
        typer.Option(help=f"Policies to compare, with commas (default: {POLICIES}; with --stock {ROUTERS})."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which tenant sends each request.")] = 0,
) -> None:
    """Overload two engines with a real trace from two tenants and compare policies."""
    from proserve_lab.shipped_traces import DEMO_TRACE, find_trace, shipped_trace
    from proserve_lab.trace import TraceError, read_trace

    names = (
        router_names(policies or ROUTERS, example=ROUTERS)
        if stock
        else policy_names(policies or POLICIES, example=POLICIES)
    )
    try:
        file = shipped_trace(DEMO_TRACE) if trace is None else find_trace(trace)
        rows = read_trace(file, limit=limit)
    except TraceError as error:
        raise wrong_usage(error) from error
    with needs_extra("lab"):
        import httptools  # noqa: F401 - what the replay client stands on
    with needs_extra("gateway"):
        from proserve_gateway.server import run_in_loop

    from proserve_cli.demo_report import print_result
    from proserve_cli.demo_run import DemoError, DemoRunner
    from proserve_cli.engine_launch import LaunchError
    from proserve_cli.local_engines import EngineStartError

    folder = Path(tempfile.mkdtemp(prefix="proserve-demo-"))
    try:
        runner = DemoRunner(
            kind=_kind(engine), rows=rows, trace=file.name, policies=names,
            stock=stock, runs=runs, seed=seed, folder=folder,
        )  # fmt: skip
        run_in_loop(runner.main())
    except LaunchError as error:
        raise wrong_usage(error) from error
    except (EngineStartError, DemoError) as error:
        raise failed(error) from error
    show(runner.result, json=json, table=print_result, logs=folder)


def _kind(asked: EngineKind | None) -> EngineKind:
    """vLLM where it can run, unless asked for something else."""
    if asked is not None:
        return asked
    from proserve_engine.serve import ENGINE_PYTHON, ServeError, detect_device

    try:
        detect_device(os.environ.get(ENGINE_PYTHON) or sys.executable)
    except ServeError as error:
        typer.echo(f"proserve: no real engine, the demo runs on emulated ones: {error}", err=True)
        return EngineKind.EMULATED
    return EngineKind.VLLM
