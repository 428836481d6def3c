"""`proserve bench ...`: what ProServe costs and where it fails, each figure next to its target."""

import os
import subprocess
import sys
from typing import Annotated

import msgspec
import typer

from proserve_cli.adversary import adversary
from proserve_cli.bench_fidelity import fidelity
from proserve_cli.bench_headroom import headroom
from proserve_cli.bench_memory import memory
from proserve_cli.bench_overload import overload
from proserve_cli.bench_polling import polling
from proserve_cli.bench_route import route
from proserve_cli.bench_soak import soak
from proserve_cli.failures import failed, needs_extra

bench_app = typer.Typer(
    name="bench", help="Measure what ProServe costs and where it fails, next to the targets.", no_args_is_help=True
)
bench_app.command("adversary")(adversary)
bench_app.command("fidelity")(fidelity)
bench_app.command("headroom")(headroom)
bench_app.command("memory")(memory)
bench_app.command("polling")(polling)
bench_app.command("overload")(overload)
bench_app.command("route")(route)
bench_app.command("soak")(soak)


@bench_app.command("gateway")
def gateway(
    *,
    turns: Annotated[int, typer.Option(help="Interleaved turns of gateway and nginx.", min=1)] = 5,
    seconds: Annotated[int, typer.Option(help="Length of a turn.", min=1, max=60)] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Requests, streams and gRPC of the gateway against nginx and a bare server, in turns. Needs nginx and wrk."""
    with needs_extra("gateway"):
        import uvloop  # noqa: F401 - gateway and load run as processes of their own
    from proserve_lab.bench.gateway_cost import report, run
    from proserve_lab.bench.proxies import BenchError

    try:
        result = run(turns=turns, seconds=seconds)
    except BenchError as error:
        raise failed(error) from error
    if json:
        typer.echo(msgspec.json.encode(result).decode())
    else:
        for line in report(result):
            typer.echo(line)


@bench_app.command("plan")
def plan(
    *,
    steps: Annotated[int, typer.Option(help="Steps to time per case.", min=10)] = 400,
    policy: Annotated[list[str] | None, typer.Option(help="Measure this policy only; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time to plan a step against vLLM's own schedule(), in the same steps. Runs in the engine environment."""
    command = ["--steps", str(steps), *(["--json"] if json else []), *(f"--policy={name}" for name in policy or ())]
    _run_in_engine("plan_time", command)


@bench_app.command("kv")
def kv(
    *,
    model: Annotated[
        str, typer.Option(help="Folder, Hugging Face name or generated://NAME; on a GPU, take one that fills it.")
    ] = "generated://small",
    context: Annotated[
        list[int] | None, typer.Option(help="Tokens of a request that is preempted; may be repeated.", min=64)
    ] = None,
    runs: Annotated[int, typer.Option(help="Preemptions of each kind per context.", min=1)] = 3,
    host_memory: Annotated[str, typer.Option(help="Host memory for KV blocks, a quantity.")] = "1Gi",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """What copies of KV blocks take and save, on this machine's engine and its device. Status 1 for a wrong token."""
    command = ["--model", model, "--runs", str(runs), "--host-memory", host_memory, *(["--json"] if json else [])]
    _run_in_engine("kv_times", [*command, *(f"--context={tokens}" for tokens in context or ())])


@bench_app.command("kv-reload")
def kv_reload(
    *,
    model: Annotated[str, typer.Option(help="Folder or generated://NAME.")] = "generated://deep",
    context: Annotated[int, typer.Option(help="Tokens of the request that comes back.", min=64)] = 480,
    tokens: Annotated[int, typer.Option(help="Tokens that the same step computes.", min=1)] = 256,
    runs: Annotated[int, typer.Option(help="Steps of each kind.", min=1)] = 9,
) -> None:
    """What a pipelined reload hides of copies that are slowed down. On vLLM's CPU build."""
    command = ["--model", model, "--context", str(context), "--tokens", str(tokens), "--runs", str(runs)]
    _run_in_engine("kv_reload", command)


def _run_in_engine(module: str, arguments: list[str]) -> None:
    """Run a benchmark with the engine environment's interpreter; its exit status is ours."""
    from proserve_engine.serve import ENGINE_PYTHON, ServeError, detect_device

    python = os.environ.get(ENGINE_PYTHON) or sys.executable
    try:
        detect_device(python)
    except ServeError as error:
        raise failed(error) from error
    command = [python, "-m", f"proserve_engine.bench.{module}", *arguments]
    environment = {"VLLM_LOGGING_LEVEL": "ERROR", **os.environ}
    raise typer.Exit(subprocess.run(command, check=False, env=environment).returncode)
