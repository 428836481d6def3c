"""What `proserve bound` does: the workload of `proserve simulate`, and the bound instead of a policy."""

import time
from typing import Literal

import msgspec
from rich.console import Console

from proserve_cli.failures import failed, needs_extra, wrong_usage
from proserve_cli.trace_workload import WorkloadOptions, load_engine, load_workload


class BoundOptions(WorkloadOptions, frozen=True, kw_only=True):
    """The command's options, under their names there."""

    lengths: Literal["known", "unknown"]
    output: Literal["table", "json"]


class BoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """Field names are a contract: scripts read them."""

    tdg_bound: float
    status: str
    lengths: str
    replicas: int
    requests: int
    bucket_s: float
    buckets: int
    windows: int
    rounds: int
    wall_s: float


def run(options: BoundOptions) -> None:
    """Bound and print; exit code 2 with one message for what can't be bounded."""
    with needs_extra("lab"):
        from proserve_lab.bound.fluid import BoundError, fluid_bound
        from proserve_lab.bound.master import SolverError
    engine = load_engine(options)
    workload = load_workload(options, engine=engine, limits=engine.limits())
    started_s = time.perf_counter()
    with Console(stderr=True).status(f"bound of {options.trace.name}") as status:
        try:
            found = fluid_bound(
                workload,
                latency=engine.latency,
                limits=engine.limits(),
                replicas=options.replicas,
                lengths_known=options.lengths == "known",
                progress=lambda doing: status.update(f"bound of {options.trace.name}: {doing}"),
            )
        except BoundError as error:
            raise wrong_usage(f"{options.trace}: {error}") from error
        except SolverError as error:
            raise failed(error) from error
    result = BoundResult(
        tdg_bound=found.tdg_bound,
        status=found.status,
        lengths=options.lengths,
        replicas=options.replicas,
        requests=len(workload),
        bucket_s=found.bucket_s,
        buckets=found.buckets,
        windows=found.windows,
        rounds=found.rounds,
        wall_s=time.perf_counter() - started_s,
    )
    _print(result, options.output)


def _print(result: BoundResult, output: str) -> None:
    console = Console()
    if output == "json":
        console.out(msgspec.json.encode(result).decode(), highlight=False)
        return
    console.print(f"TDG ratio at most {result.tdg_bound:.4f} ({result.status}), output lengths {result.lengths}")
    console.print(
        f"{result.requests} requests, {result.replicas} replica(s), {result.buckets} buckets of {result.bucket_s:g} s "
        f"in {result.windows} window(s), {result.rounds} linear programs in {result.wall_s:.1f} s",
        highlight=False,
    )
