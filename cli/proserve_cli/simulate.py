"""`proserve simulate`: one policy on one trace in virtual time."""

import time
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from proserve_cli.failures import failed, wrong_usage
from proserve_cli.resource_files import read_classes
from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import PolicyError, make_policy
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import PriorityClass
from proserve_core.replica import Replica, SubmitError
from proserve_core.routing.registry import make_router
from proserve_lab.simulation.result import SimulationResult, summarise, write_token_log
from proserve_lab.simulation.run import simulate as run_simulation
from proserve_lab.simulation.timed import TimedPolicy
from proserve_lab.simulation.workload import DEFAULT_MIX, MixError, class_mix, make_workload
from proserve_lab.trace import TraceError, TraceRow, read_trace, rescale

_LONG_RUN_REQUESTS = 2000


def simulate(
    *,
    trace: Annotated[Path, typer.Option(help="CSV (or .gz) with arrival_s, prompt_tokens, output_tokens.")],
    calibration: Annotated[str, typer.Option(help="Whose step times and limits, e.g. h100-llama-3.1-8b.")],
    policy: Annotated[str, typer.Option(help="Batching policy of the engines.")],
    router: Annotated[str, typer.Option(help="Routing policy; without effect on one replica.")] = "round-robin",
    replicas: Annotated[int, typer.Option(help="Number of engines.", min=1)] = 1,
    rate: Annotated[float | None, typer.Option(help="Mean arrivals per second [default: as recorded].")] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first N rows.", min=1)] = None,
    classes: Annotated[Path | None, typer.Option(help="YAML with PriorityClass documents and their shares.")] = None,
    seed: Annotated[int, typer.Option(help="Decides each request's class.")] = 0,
    kv_blocks: Annotated[
        int | None, typer.Option(help="KV blocks of an engine [default: as calibrated].", min=1)
    ] = None,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="What goes to stdout.")] = "table",
    token_log: Annotated[Path | None, typer.Option(help="Write one JSON line per request to this file.")] = None,
) -> None:
    """Simulate engines on a trace: gain, objectives met and plan time of a policy, deterministic by seed."""
    rows = load_rows(trace, limit=limit, rate=rate)
    workload = make_workload(rows, mix=load_mix(classes), seed=seed)
    try:
        engine = load_calibration(calibration)
        policies = [TimedPolicy(make_policy(policy)) for _ in range(replicas)]
        routing = make_router(router)
    except (PolicyError, ValueError) as error:
        raise wrong_usage(error) from error
    limits = EngineLimits(
        block_size=engine.block_size,
        blocks=kv_blocks or engine.blocks,
        max_sequences=engine.max_sequences,
        max_step_tokens=engine.max_step_tokens,
    )
    engines = [
        Replica(policy=item, policy_name=policy, limits=limits, latency=engine.latency, engine_id=f"replica-{number}")
        for number, item in enumerate(policies)
    ]
    started_s = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True, disable=len(workload) < _LONG_RUN_REQUESTS) as bar:
        task = bar.add_task(f"{policy} on {trace.name}", total=len(workload))
        try:
            run = run_simulation(
                workload,
                replicas=engines,
                router=routing,
                progress=lambda finished: bar.update(task, completed=finished),
            )
        except SubmitError as error:
            raise wrong_usage(error) from error
    result = summarise(
        run,
        policy=policy,
        router=router,
        replicas=replicas,
        plan_s=[duration_s for item in policies for duration_s in item.durations_s],
        wall_s=time.perf_counter() - started_s,
    )
    if token_log is not None:
        try:
            with token_log.open("w", encoding="utf-8") as file:
                write_token_log(run.outcomes, file)
        except OSError as error:
            raise failed(f"{token_log}: cannot write the token log: {error.strerror}") from error
    _print(result, output)


def load_rows(trace: Path, *, limit: int | None, rate: float | None) -> list[TraceRow]:
    """Rows of the trace at the wanted rate; exit code 2 with one line if they can't be had."""
    if rate is not None and not 0 < rate < float("inf"):
        raise wrong_usage(f"--rate: expected a positive number of requests per second, got {rate:g}")
    try:
        rows = read_trace(trace, limit=limit)
    except TraceError as error:
        raise wrong_usage(error) from error
    return rows if rate is None else rescale(rows, rate=rate)


def load_mix(classes: Path | None) -> tuple[tuple[PriorityClass, float], ...]:
    """The classes of the file, or the default mix; exit code 2 if the file is no use."""
    if classes is None:
        return DEFAULT_MIX
    try:
        return class_mix(read_classes(classes))
    except MixError as error:
        raise wrong_usage(f"{classes}: {error}") from error


def _print(result: SimulationResult, output: str) -> None:
    console = Console()
    if output == "json":
        console.out(msgspec.json.encode(result).decode(), highlight=False)
        return
    table = Table(title=f"{result.policy}, {result.replicas} replica(s), {result.rate:.2f} requests/s")
    for heading in ("class", "requests", "TDG ratio", "SLO attainment"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, figures in result.classes.items():
        table.add_row(name, str(figures.requests), f"{figures.tdg_ratio:.4f}", f"{figures.slo_attainment:.4f}")
    table.add_row("all", str(result.requests), f"{result.tdg_ratio:.4f}", f"{result.slo_attainment:.4f}")
    console.print(table)
    console.print(
        f"{result.steps} steps, {result.preemptions} preemptions, plan p50 {result.plan_us.p50:.0f} us "
        f"p99 {result.plan_us.p99:.0f} us, {result.simulated_s:.1f} s simulated in {result.wall_s:.1f} s",
        highlight=False,
    )
