"""`proserve bench memory`: whether an engine's memory grows while requests come and go."""

import gc
import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from proserve_cli.failures import failed, wrong_usage

_STATM = Path("/proc/self/statm")


def memory(
    *,
    policy: Annotated[str, typer.Option(help="Batching policy of the simulated engine.")] = "recoverable-gain",
    steps: Annotated[int, typer.Option(help="Steps to run.", min=10)] = 1_000_000,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Memory over many steps of a simulated engine with a steady queue. A million take several minutes; needs Linux."""
    from proserve_core.batching.registry import PolicyError
    from proserve_core.latency.calibrations import load_calibration
    from proserve_lab.bench.memory import report, run

    if not _STATM.exists():
        raise failed(f"{_STATM} does not exist: memory is measured on Linux only")
    latency = load_calibration("h100-llama-3.1-8b").latency
    try:
        result = run(policy=policy, steps=steps, latency=latency, used_bytes=_resident_bytes)
    except PolicyError as error:
        raise wrong_usage(error) from error
    if json:
        typer.echo(msgspec.json.encode({**msgspec.to_builtins(result), "growth_bytes": result.growth_bytes}).decode())
    else:
        typer.echo(report(result))


def _resident_bytes() -> int:
    """Memory of this process."""
    gc.collect()
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
