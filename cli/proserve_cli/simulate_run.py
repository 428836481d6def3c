"""What `proserve simulate` does: one policy on one trace in virtual time."""

import time
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from proserve_cli.failures import failed, wrong_usage
from proserve_cli.resource_files import read_classes
from proserve_core.batching.registry import PolicyError, make_policy
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import PriorityClass
from proserve_core.replica import Replica, SubmitError
from proserve_core.routing.registry import make_router
from proserve_lab.shipped_traces import find_trace
from proserve_lab.simulation.result import SimulationResult, summarise, write_token_log
from proserve_lab.simulation.run import simulate as run_simulation
from proserve_lab.simulation.timed import TimedPolicy
from proserve_lab.simulation.workload import DEFAULT_MIX, MixError, class_mix, make_workload
from proserve_lab.trace import TraceError, TraceRow, read_trace, rescale

_LONG_RUN_REQUESTS = 2000


class SimulationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The command's options, under their names there."""

    trace: Path
    calibration: str
    policy: str
    router: str
    replicas: int
    rate: float | None
    limit: int | None
    classes: Path | None
    seed: int
    kv_blocks: int | None
    output: Literal["table", "json"]
    token_log: Path | None


def run(options: SimulationOptions) -> None:
    """Simulate and print; exit code 2 with one message for what can't be simulated."""
    rows = load_rows(options.trace, limit=options.limit, rate=options.rate)
    workload = make_workload(rows, mix=load_mix(options.classes), seed=options.seed)
    try:
        engine = load_calibration(options.calibration)
        policies = [TimedPolicy(make_policy(options.policy)) for _ in range(options.replicas)]
        routing = make_router(options.router)
    except (PolicyError, ValueError) as error:
        raise wrong_usage(error) from error
    limits = engine.limits(blocks=options.kv_blocks)
    engines = [
        Replica(
            policy=item,
            policy_name=options.policy,
            limits=limits,
            latency=engine.latency,
            engine_id=f"replica-{number}",
        )
        for number, item in enumerate(policies)
    ]
    started_s = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True, disable=len(workload) < _LONG_RUN_REQUESTS) as bar:
        task = bar.add_task(f"{options.policy} on {options.trace.name}", total=len(workload))
        try:
            finished_run = run_simulation(
                workload,
                replicas=engines,
                router=routing,
                progress=lambda finished: bar.update(task, completed=finished),
            )
        except SubmitError as error:
            raise wrong_usage(error) from error
    result = summarise(
        finished_run,
        policy=options.policy,
        router=options.router,
        replicas=options.replicas,
        plan_s=[duration_s for item in policies for duration_s in item.durations_s],
        wall_s=time.perf_counter() - started_s,
    )
    if options.token_log is not None:
        try:
            with options.token_log.open("w", encoding="utf-8") as file:
                write_token_log(finished_run.outcomes, file)
        except OSError as error:
            raise failed(f"{options.token_log}: cannot write the token log: {error.strerror}") from error
    _print(result, options.output)


def load_rows(trace: Path, *, limit: int | None, rate: float | None) -> list[TraceRow]:
    """Rows of the trace at the wanted rate; exit code 2 with one line if they can't be had."""
    if rate is not None and not 0 < rate < float("inf"):
        raise wrong_usage(f"--rate: expected a positive number of requests per second, got {rate:g}")
    try:
        rows = read_trace(find_trace(trace), limit=limit)
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
