"""What `proserve replay` does: the recorded requests in the simulator, as it was and with changes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from proserve_cli.admin_client import Format
from proserve_cli.failures import wrong_usage
from proserve_cli.resource_files import read_classes
from proserve_core.batching.registry import PolicyError
from proserve_core.gain import GainTotals
from proserve_core.gain_status import GainStatus
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import PriorityClass
from proserve_core.pools import DEFAULT_ROUTING_POLICY
from proserve_core.request_record import RecordedEngine, RequestRecord
from proserve_core.routing import make_room
from proserve_lab.recorded_traffic import (
    RecordedTraffic,
    RecordError,
    pool_traffic,
    read_records,
    replicas,
    servable,
    what_happened,
    workload,
)
from proserve_lab.simulation.run import simulate
from proserve_lab.simulation.workload import SimulatedRequest

_LONG_RUN_REQUESTS = 2000


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be otherwise; None: as it was."""

    classes: Path | None
    policy: str | None
    router: str | None
    replicas: int | None
    calibration: str | None


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation runs on."""

    replicas: int
    policies: list[str]
    router: str


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """One simulation."""

    setting: Setting
    classes: dict[str, GainStatus]
    total: GainStatus


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `--format json` prints."""

    pool: str
    requests: int
    left_out: int
    """Larger than an engine."""
    recorded: dict[str, GainStatus]
    """By class, as the gateway booked it."""
    recorded_total: GainStatus
    as_it_was: Simulated | None = None
    """None: the engines did not tell enough of themselves to be simulated."""
    changed: Simulated | None = None
    """None: nothing was to be otherwise."""


def run(files: Sequence[Path], *, changes: Changes, pool: str | None, limit: int | None, output: Format) -> None:
    """Print the report."""
    try:
        traffic = pool_traffic(read_records(files), pool)
        report = _report(traffic, traffic.requests[:limit], changes)
    except (RecordError, PolicyError, ValueError) as error:
        raise wrong_usage(error) from error
    if output is Format.JSON:
        Console().out(msgspec.json.encode(report).decode(), highlight=False)
    else:
        _print(report)


def _report(traffic: RecordedTraffic, requests: Sequence[RequestRecord], changes: Changes) -> ReplayReport:
    other = _engines(traffic, changes.calibration)
    classes = {} if changes.classes is None else _classes(changes.classes)
    same = workload(requests, {})
    # Both runs take the same requests, or their figures could not be compared.
    fitting = {request.id for request in servable(same, [*traffic.engines, *other])}
    kept = [request for request in requests if request.id in fitting]
    if not kept:
        raise RecordError("no engine could hold any of the requests: choose one that is larger with --calibration")
    router, count = traffic.router or DEFAULT_ROUTING_POLICY, len(traffic.engines)
    as_it_was = changed = None
    if traffic.engines:
        as_it_was = _simulate(
            workload(kept, {}),
            traffic.engines,
            count=count,
            policy=None,
            router=router,
            classes=traffic.classes,
            title="as it was",
        )
    if changes != _NOTHING or not traffic.engines:
        changed = _simulate(
            workload(kept, classes),
            other,
            count=changes.replicas or count or 1,
            policy=changes.policy,
            router=changes.router or router,
            classes=({each.name: each for each in traffic.classes} | classes).values(),
            title="changed",
        )
    recorded = what_happened(kept)
    return ReplayReport(
        pool=traffic.pool,
        requests=len(kept),
        left_out=len(requests) - len(kept),
        recorded={name: GainStatus.of(totals) for name, totals in sorted(recorded.items())},
        recorded_total=_total(recorded),
        as_it_was=as_it_was,
        changed=changed,
    )


_NOTHING = Changes(classes=None, policy=None, router=None, replicas=None, calibration=None)


def _engines(traffic: RecordedTraffic, calibration: str | None) -> Sequence[RecordedEngine]:
    """What the changed run runs on."""
    if calibration is None:
        if not traffic.engines:
            raise RecordError(
                f"the engines of pool {traffic.pool} told nothing of themselves: name their kind with --calibration"
            )
        return traffic.engines
    kind = load_calibration(calibration)
    policy = traffic.engines[0].policy if traffic.engines else "fcfs"
    return [
        RecordedEngine(
            name=calibration,
            pool=traffic.pool,
            policy=policy,
            block_size=kind.block_size,
            blocks=kind.blocks,
            max_sequences=kind.max_sequences,
            max_step_tokens=kind.max_step_tokens,
            latency=kind.latency,
        )
    ]


def _classes(file: Path) -> dict[str, PriorityClass]:
    found = {each.name: each for each in read_classes(file).priority_classes}
    if not found:
        raise RecordError(f"--classes: {file} has no PriorityClass document")
    return found


def _simulate(
    requests: Sequence[SimulatedRequest],
    engines: Sequence[RecordedEngine],
    *,
    count: int,
    policy: str | None,
    router: str,
    classes: Iterable[PriorityClass],
    title: str,
) -> Simulated:
    room = make_room(router, classes)
    made = replicas(engines, count=count, policy=policy)
    with Progress(console=Console(stderr=True), transient=True, disable=len(requests) < _LONG_RUN_REQUESTS) as bar:
        task = bar.add_task(title, total=len(requests))
        finished = simulate(
            requests,
            replicas=made,
            rooms=[room] if count > 1 or room.tick_s is not None else (),
            to_the_end=False,
            progress=lambda done: bar.update(task, completed=done),
        )
    by_class = finished.ledger.by_class()
    policies = sorted({policy or each.policy for each in engines})
    return Simulated(
        setting=Setting(replicas=count, policies=policies, router=router),
        classes={name: GainStatus.of(totals) for name, totals in sorted(by_class.items())},
        total=_total(by_class),
    )


def _total(sums: Mapping[str, GainTotals]) -> GainStatus:
    total = GainTotals()
    for totals in sums.values():
        total.merge(totals)
    return GainStatus.of(total)


def _print(report: ReplayReport) -> None:
    console = Console(markup=False, highlight=False)
    left_out = f", {report.left_out} more are larger than an engine" if report.left_out else ""
    console.print(f"{report.requests} requests of pool {report.pool}{left_out}")
    runs = [
        (name, simulated)
        for name, simulated in (("simulated", report.as_it_was), ("changed", report.changed))
        if simulated is not None
    ]
    for name, simulated in runs:
        setting = simulated.setting
        console.print(
            f"{name}: {setting.replicas} engines with {', '.join(setting.policies)}, routed by {setting.router}"
        )
    table = Table(Column("class", no_wrap=True), box=None, pad_edge=False)
    table.add_column("requests", justify="right")
    for figure in ("gain", "SLO met"):
        for name in ("recorded", *(name for name, _ in runs)):
            table.add_column(f"{figure}\n{name}", justify="right")
    rows = [*report.recorded.items(), ("all", report.recorded_total)]
    for name, recorded in rows:
        figures = [recorded, *(each.total if name == "all" else each.classes[name] for _, each in runs)]
        table.add_row(
            name,
            str(recorded.requests),
            *(f"{each.tdg_ratio:.1%}" for each in figures),
            *(f"{each.slo_attainment:.1%}" for each in figures),
        )
    console.print(table)
