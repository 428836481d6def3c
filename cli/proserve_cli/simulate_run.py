"""What `proserve simulate` does: one policy on one trace in virtual time."""

import time
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from proserve_cli.failures import failed, wrong_usage
from proserve_cli.output_files import check_output_file
from proserve_cli.trace_workload import WorkloadOptions, load_engine, load_mix, load_prefixes, load_workload
from proserve_core.batching.registry import PolicyError, make_policy
from proserve_core.blocks.settings import kv_offload
from proserve_core.kv_host import host_of
from proserve_core.replica import Replica
from proserve_core.routing.registry import make_room
from proserve_lab.simulation.result import SimulationResult, summarise, write_token_log
from proserve_lab.simulation.run import simulate as run_simulation
from proserve_lab.simulation.timed import TimedPolicy

_LONG_RUN_REQUESTS = 2000


class SimulationOptions(WorkloadOptions, frozen=True, kw_only=True):
    """The command's options, under their names there."""

    policy: str
    router: str
    gateways: int
    staleness_ms: float
    prefix_cache: bool
    kv_blocks: int | None
    kv_offload: str | None
    output: Literal["table", "json"]
    token_log: Path | None


def run(options: SimulationOptions) -> None:
    """Simulate and print; exit code 2 with one message for what can't be simulated."""
    token_log = options.token_log
    check_output_file("--token-log", token_log)
    engine = load_engine(options)
    try:
        policies = [TimedPolicy(make_policy(options.policy)) for _ in range(options.replicas)]
        classes = [item for item, _ in load_mix(options.classes)]
        rooms = [make_room(options.router, classes) for _ in range(options.gateways)]
        settings = None if options.kv_offload is None else kv_offload(options.kv_offload)
        kv_host = host_of(engine, settings)
    except (PolicyError, ValueError) as error:
        raise wrong_usage(error) from error
    limits = engine.limits(blocks=options.kv_blocks)
    workload = load_workload(options, engine=engine, limits=limits)
    prefixes = load_prefixes(options, workload) if options.prefix_cache else None
    engines = [
        Replica(
            policy=item,
            policy_name=options.policy,
            limits=limits,
            latency=engine.latency,
            kv_host=kv_host,
            engine_id=f"replica-{number}",
        )
        for number, item in enumerate(policies)
    ]
    started_s = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True, disable=len(workload) < _LONG_RUN_REQUESTS) as bar:
        task = bar.add_task(f"{options.policy} on {options.trace.name}", total=len(workload))
        finished_run = run_simulation(
            workload,
            replicas=engines,
            # One engine gets everything from a router that does not wait, so nothing is left to decide.
            rooms=rooms if options.replicas > 1 or rooms[0].tick_s is not None else (),
            staleness_s=options.staleness_ms / 1e3,
            prefixes=prefixes,
            progress=lambda finished: bar.update(task, completed=finished),
        )
    result = summarise(
        finished_run,
        policy=options.policy,
        router=options.router,
        replicas=options.replicas,
        plan_s=[duration_s for item in policies for duration_s in item.durations_s],
        wall_s=time.perf_counter() - started_s,
    )
    if token_log is not None:
        try:
            with token_log.open("w", encoding="utf-8") as file:
                write_token_log(finished_run.outcomes, file)
        except OSError as error:
            raise failed(f"{token_log}: cannot write the token log: {error.strerror}") from error
    _print(result, options.output)


def _print(result: SimulationResult, output: str) -> None:
    console = Console()
    if output == "json":
        console.out(msgspec.json.encode(result).decode(), highlight=False)
        return
    table = Table(title=f"{result.policy}, {result.replicas} replica(s), {result.rate:.6g} requests/s")
    for heading in ("class", "requests", "TDG ratio", "SLO attainment"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, figures in result.classes.items():
        table.add_row(name, str(figures.requests), f"{figures.tdg_ratio:.4f}", f"{figures.slo_attainment:.4f}")
    table.add_row("all", str(result.requests), f"{result.tdg_ratio:.4f}", f"{result.slo_attainment:.4f}")
    console.print(table)
    if result.kv is not None:
        console.print(
            f"host: {result.kv.offloaded_blocks} blocks there, {result.kv.restored_blocks} back with "
            f"{result.kv.restores} requests, {result.kv.recomputed_tokens} tokens computed again, "
            f"{result.kv.evicted_blocks} blocks evicted; steps waited {sum(result.kv.exposed_s.values()):.2f} s for "
            f"copies, {sum(result.kv.hidden_s.values()):.2f} s of copies hidden",
            highlight=False,
        )
    console.print(
        f"{result.steps} steps, {result.preemptions} preemptions, plan p50 {result.plan_us.p50:.0f} us "
        f"p99 {result.plan_us.p99:.0f} us, {result.simulated_s:.1f} s simulated in {result.wall_s:.1f} s",
        highlight=False,
    )
