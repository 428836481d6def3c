"""`proserve bench fidelity`: the same requests on an engine and in the simulator, and how far the gain is apart."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from proserve_cli.comparison import policy_names, show
from proserve_cli.engine_kind import EngineKind
from proserve_cli.failures import failed, needs_extra, wrong_usage

POLICIES = "fcfs,slide-batching,recoverable-gain"


def fidelity(
    *,
    engine: Annotated[EngineKind, typer.Option(help="What is compared with the simulator.")] = EngineKind.EMULATED,
    policies: Annotated[str, typer.Option(help="Batching policies, with commas.")] = POLICIES,
    runs: Annotated[int, typer.Option(help="Replays per policy; the mean difference counts.", min=1, max=50)] = 1,
    load: Annotated[float, typer.Option(help="Offered load over what the engine can do.")] = 1.5,
    seconds: Annotated[float, typer.Option(help="Time over which the requests of a replay arrive.")] = 20.0,
    calibration: Annotated[str, typer.Option(help="Of the emulated engine.")] = "h100-llama-3.1-8b",
    trace: Annotated[Path, typer.Option(help="CSV file, or the name of a shipped trace.")] = Path("azure-conv-2023"),
    seed: Annotated[int, typer.Option(help="Decides each request's class.")] = 0,
    kv_blocks: Annotated[
        int | None, typer.Option(help="KV blocks of a real engine, by default what 1 GiB holds.", min=32)
    ] = None,
    kv_offload: Annotated[
        list[str] | None,
        typer.Option(help="Of a real engine, JSON as for `engine serve`; may be repeated, each is compared."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Replay requests on an engine and in the simulator and compare the gain, next to the targets.

    An emulated engine has the step times of its calibration. A real one (`--engine vllm`, in the engine environment) is
    calibrated by its own steps right before and after each replay.
    """
    for name, value in (("--load", load), ("--seconds", seconds)):
        if not 0 < value < float("inf"):
            raise wrong_usage(f"{name}: expected a number above 0, got {value:g}")
    with needs_extra("lab"):
        import httptools  # noqa: F401 - what the replay client stands on
    with needs_extra("gateway"):
        from proserve_gateway.server import run_in_loop
    from proserve_cli.engine_launch import LaunchError
    from proserve_cli.fidelity_report import print_result
    from proserve_cli.fidelity_run import FidelityOptions, FidelityRunner
    from proserve_cli.fidelity_session import FidelityError
    from proserve_cli.local_engines import EngineStartError
    from proserve_core.blocks.settings import kv_offload as read_kv_offload
    from proserve_core.latency.calibrations import load_calibration
    from proserve_lab.shipped_traces import find_trace
    from proserve_lab.trace import TraceError, read_trace

    names = policy_names(policies, example=POLICIES)
    if engine is not EngineKind.VLLM and (kv_blocks or kv_offload):
        raise wrong_usage("--kv-blocks, --kv-offload: are for `--engine vllm`")
    try:
        settings = tuple(read_kv_offload(written) for written in kv_offload or ())
        load_calibration(calibration)
        rows = read_trace(find_trace(trace))
    except (TraceError, ValueError) as error:
        raise wrong_usage(error) from error
    folder = Path(tempfile.mkdtemp(prefix="proserve-fidelity-"))
    runner = FidelityRunner(
        FidelityOptions(
            engine=engine, policies=names, runs=runs, load=load, seconds=seconds, calibration=calibration,
            trace=str(trace), seed=seed, kv_blocks=kv_blocks, kv_offload=settings,
        ),
        rows=rows,
        folder=folder,
    )  # fmt: skip
    try:
        run_in_loop(runner.main())
    except LaunchError as error:
        raise wrong_usage(error) from error
    except (EngineStartError, FidelityError) as error:
        raise failed(error) from error
    show(runner.result, json=json, table=print_result, logs=folder)
