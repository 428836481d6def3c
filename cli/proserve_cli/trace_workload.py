"""The requests that `simulate` and `bound` take from a trace: the same ones, and refused for the same reasons."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from proserve_cli.failures import wrong_usage
from proserve_cli.resource_files import read_classes
from proserve_core.batching.state import EngineLimits
from proserve_core.latency.calibrations import Calibration, load_calibration
from proserve_core.objectives import PriorityClass
from proserve_core.replica import SubmitError
from proserve_lab.shipped_traces import find_trace
from proserve_lab.simulation.admission import refuse_unservable
from proserve_lab.simulation.workload import DEFAULT_MIX, MixError, SimulatedRequest, class_mix, make_workload
from proserve_lab.trace import TraceError, TraceRow, read_trace, rescale


class WorkloadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that the commands share, under their names there."""

    trace: Path
    calibration: str
    replicas: int
    rate: float | None
    limit: int | None
    classes: Path | None
    seed: int


def load_engine(options: WorkloadOptions) -> Calibration:
    """The calibration; exit code 2 with one line if there is no such one."""
    try:
        return load_calibration(options.calibration)
    except ValueError as error:
        raise wrong_usage(error) from error


def load_workload(options: WorkloadOptions, *, engine: Calibration, limits: EngineLimits) -> list[SimulatedRequest]:
    """The requests, each with its class; exit code 2 with one line if they can't be had or no engine could hold one."""
    rows = _load_rows(options)
    workload = make_workload(rows, mix=load_mix(options.classes), seed=options.seed)
    try:
        refuse_unservable(workload, limits=limits, latency=engine.latency)
    except SubmitError as error:
        raise wrong_usage(f"{options.trace}: {error}") from error
    return workload


def load_prefixes(options: WorkloadOptions, workload: Sequence[SimulatedRequest]) -> dict[str, tuple[int, ...]]:
    """Hashes of the prompts' blocks, by request of the workload; exit code 2 if the trace does not have them."""
    rows = _load_rows(options)
    prefixes = {request.id: row.prefix_hash_ids for request, row in zip(workload, rows, strict=True)}
    if not any(prefixes.values()):
        raise wrong_usage(f"--prefix-cache: {options.trace} has no column prefix_hash_ids: use a trace that has")
    return prefixes


def _load_rows(options: WorkloadOptions) -> list[TraceRow]:
    try:
        rows = read_trace(find_trace(options.trace), limit=options.limit)
    except TraceError as error:
        raise wrong_usage(error) from error
    if options.rate is None:
        return rows
    try:
        return rescale(rows, rate=options.rate)
    except ValueError as error:
        raise wrong_usage(f"--{error}") from error


def load_mix(classes: Path | None) -> tuple[tuple[PriorityClass, float], ...]:
    """The classes of `--classes`, with their shares; exit code 2 if they can't be had."""
    if classes is None:
        return DEFAULT_MIX
    try:
        return class_mix(read_classes(classes))
    except MixError as error:
        raise wrong_usage(f"{classes}: {error}") from error
