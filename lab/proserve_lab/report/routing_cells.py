"""The cells of the report on routing: fleets of simulated engines behind gateways, the most telling first.

Load 1 is the sum of the engines' own saturations: what they could serve together if nothing were lost by placing
requests. Each engine has a fixed number of a trace's rows, so that larger fleets run as long as small ones. Where a
trace has too few, it is repeated, with prefixes of their own.
"""

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import msgspec

from proserve_core.latency import LatencyModel
from proserve_core.routing.registry import LATE_ROUTERS, ROUTERS
from proserve_lab.report.cells import OURS, Cell
from proserve_lab.report.scenarios import SEED, saturation_of
from proserve_lab.report.workloads import TRACES, WORKLOADS
from proserve_lab.shipped_traces import shipped_trace
from proserve_lab.simulation.workload import DEFAULT_MIX, SimulatedRequest, make_workload
from proserve_lab.trace import TraceRow, read_trace, rescale


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """Engines, and what gateways know of them."""

    title: str
    gpus: tuple[str, ...]
    """Scenario of each engine, which says its calibration."""
    slower: tuple[float, ...] = ()
    """Factors on the step times of the first engines; they publish their true step times."""
    max_sequences: int | None = None
    """None: as calibrated."""
    gateways: int = 1
    staleness_s: float = 0.02


FOUR = ("h100",) * 4
FLEETS: dict[str, Fleet] = {
    "h100x4": Fleet(title="four H100", gpus=FOUR),
    "h100x16": Fleet(title="16 H100", gpus=FOUR * 4),
    "h100x64": Fleet(title="64 H100", gpus=FOUR * 16),
    "mixed": Fleet(title="two H100 and two A100", gpus=("h100", "h100", "a100", "a100")),
    "one-slow": Fleet(title="four H100, one of them at half the speed", gpus=FOUR, slower=(2.0,)),
    "256-sequences": Fleet(title="four H100 with at most 256 sequences", gpus=FOUR, max_sequences=256),
    "stale-100": Fleet(title="four H100, snapshots 100 ms old", gpus=FOUR, staleness_s=0.1),
    "stale-500": Fleet(title="four H100, snapshots 500 ms old", gpus=FOUR, staleness_s=0.5),
    "gateways-2": Fleet(title="four H100, two gateways", gpus=FOUR, gateways=2),
    "gateways-4": Fleet(title="four H100, four gateways", gpus=FOUR, gateways=4),
}
"""The first one has every router on every trace, the others the most telling ones on two traces."""
MAIN = "h100x4"
ROWS = {
    "azure-conv": 1200,
    "azure-code": 1200,
    "mooncake-conversation": 300,
    "mooncake-synthetic": 300,
    "m-large": 1200,
    "r1": 600,
}
"""Requests for each engine: with a third of them, stock engines under overload are not behind yet."""
ENGINES = ("fcfs", OURS)
"""Batching policies of the engines: a stock one's, and our own."""
LOADS = (0.8, 1.0, 1.2, 1.5)
TELLING = ("late-gain", "min-load", "round-robin", "go-full", "min-ahead", "least-requests", "static-partition")
OTHERS = tuple(sorted({*ROUTERS, *LATE_ROUTERS} - {*TELLING}))
TWO_TRACES = ("azure-conv", "mooncake-conversation")


def routing_cells() -> list[Cell]:
    """All cells, in the order in which they are run. A cell's policy is its router, its variant the engines'."""
    others = [name for name in FLEETS if name != MAIN]
    return [
        *_cells((MAIN,), TWO_TRACES, (1.2,), TELLING),
        *_cells(others, TWO_TRACES, (1.2,), TELLING),
        *_cells((MAIN,), TWO_TRACES, (0.8, 1.0, 1.5), TELLING),
        *_cells((MAIN,), tuple(name for name in TRACES if name not in TWO_TRACES), LOADS, TELLING),
        *_cells((MAIN,), TRACES, LOADS, OTHERS),
    ]


def _cells(
    fleets: Sequence[str], workloads: Sequence[str], loads: Sequence[float], routers: Sequence[str]
) -> Iterator[Cell]:
    for fleet in fleets:
        for workload in workloads:
            for load in loads:
                for router in routers:
                    for engine in ENGINES:
                        yield Cell(scenario=fleet, workload=workload, load=load, policy=router, variant=engine)


def latency_of(fleet: Fleet, engine: int, calibrated: LatencyModel) -> LatencyModel:
    """Step times of one engine."""
    if engine >= len(fleet.slower):
        return calibrated
    factor = fleet.slower[engine]
    return LatencyModel(**{name: factor * getattr(calibrated, name) for name in LatencyModel.__struct_fields__})


def fleet_rate(scenario: str, workload: str, load: float) -> float:
    """Requests per second."""
    fleet = FLEETS[scenario]
    speeds = [1 / factor for factor in fleet.slower] + [1.0] * (len(fleet.gpus) - len(fleet.slower))
    alone = [speed * saturation_of(gpu, workload) for gpu, speed in zip(fleet.gpus, speeds, strict=True)]
    return load * sum(alone)


@lru_cache(maxsize=2)
def workload_of(
    scenario: str, workload: str, load: float
) -> tuple[tuple[SimulatedRequest, ...], dict[str, tuple[int, ...]]]:
    """The requests of a fleet in order of arrival, and the hashes of their prompts' blocks where the trace has them."""
    rows = rescale(
        _rows(workload, ROWS[workload] * len(FLEETS[scenario].gpus)), rate=fleet_rate(scenario, workload, load)
    )
    requests = tuple(make_workload(rows, mix=DEFAULT_MIX, seed=SEED))
    prefixes = {
        request.id: row.prefix_hash_ids for request, row in zip(requests, rows, strict=True) if row.prefix_hash_ids
    }
    return requests, prefixes


@cache
def _rows(workload: str, count: int) -> tuple[TraceRow, ...]:
    """So many rows of the workload's trace, repeated if it has fewer."""
    recorded = read_trace(shipped_trace(WORKLOADS[workload].trace), limit=count)
    first_s = recorded[0].arrival_s
    span_s = (recorded[-1].arrival_s - first_s) * len(recorded) / max(1, len(recorded) - 1)
    others = 1 + max((block for row in recorded for block in row.prefix_hash_ids), default=0)
    rows: list[TraceRow] = []
    for place in range(count):
        round_, number = divmod(place, len(recorded))
        row = recorded[number]
        rows.append(
            msgspec.structs.replace(
                row,
                arrival_s=row.arrival_s - first_s + round_ * span_s,
                prefix_hash_ids=tuple(block + round_ * others for block in row.prefix_hash_ids),
            )
        )
    return tuple(rows)
