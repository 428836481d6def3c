"""The cells of the report on routing: fleets of simulated engines behind gateways, the most telling first.

Load 1 is the sum of the engines' own saturations: what they could serve together if nothing were lost by placing
requests. Each engine has a fixed number of a trace's rows, fewer in larger fleets. Where a trace has too few, it is
repeated, with prefixes of their own.

Not every router runs everywhere: on the main fleet the most telling ones run at every load and all others at one, and
each other fleet changes one thing at one load, on two traces, with the routers that it can tell apart.
"""

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import msgspec

from proserve_core.batching import EngineLimits
from proserve_core.latency import LatencyModel
from proserve_core.latency.calibrations import Calibration
from proserve_core.routing.registry import LATE_ROUTERS, ROUTERS
from proserve_lab.report.cells import OURS, Cell
from proserve_lab.report.scenarios import SEED, saturation_of
from proserve_lab.report.workloads import TRACES, WORKLOADS
from proserve_lab.shipped_traces import shipped_trace
from proserve_lab.simulation.workload import DEFAULT_MIX, SimulatedRequest, make_workload
from proserve_lab.trace import TraceRow, read_trace, rescale


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """Engines, what gateways know of them, and which rows of a trace they get."""

    title: str
    gpus: tuple[str, ...]
    """Scenario of each engine, which says its calibration."""
    slower: tuple[float, ...] = ()
    """Factors on the step times of the first engines; they publish their true step times."""
    size: int = 1
    """Every engine has so many times the calibrated blocks, sequences and tokens in a step."""
    max_sequences: int | None = None
    """None: as calibrated."""
    gateways: int = 1
    staleness_s: float = 0.02
    share: float = 1.0
    """Of `ROWS`, for each engine."""
    skipped: int = 0
    """Rows for each engine that are passed over first: another part of the trace."""


FOUR = ("h100",) * 4
FLEETS: dict[str, Fleet] = {
    "h100x4": Fleet(title="four H100", gpus=FOUR),
    "gateways-2": Fleet(title="four H100, two gateways", gpus=FOUR, gateways=2),
    "gateways-4": Fleet(title="four H100, four gateways", gpus=FOUR, gateways=4),
    "stale-100": Fleet(title="four H100, snapshots 100 ms old", gpus=FOUR, staleness_s=0.1),
    "stale-500": Fleet(title="four H100, snapshots 500 ms old", gpus=FOUR, staleness_s=0.5),
    "mixed": Fleet(title="two H100 and two A100", gpus=("h100", "h100", "a100", "a100")),
    "one-slow": Fleet(title="four H100, one of them at half the speed", gpus=FOUR, slower=(2.0,)),
    "256-sequences": Fleet(title="four H100 with at most 256 sequences", gpus=FOUR, max_sequences=256),
    "pooled": Fleet(
        title="one engine as large and as fast as four H100", gpus=FOUR[:1], slower=(0.25,), size=4, share=4
    ),
    "h100x16": Fleet(title="16 H100", gpus=FOUR * 4, share=0.5),
    "h100x64": Fleet(title="64 H100", gpus=FOUR * 16, share=0.25),
    "later": Fleet(title="four H100, another part of each trace", gpus=FOUR, skipped=400),
    "longer": Fleet(title="four H100, twice as many requests", gpus=FOUR, share=2.0),
}
"""The first one has every router on every trace, the others the most telling ones on two traces."""
MAIN = "h100x4"
POOLED = "pooled"
ROWS = {
    "azure-conv": 600,
    "azure-code": 600,
    "mooncake-conversation": 150,
    "mooncake-synthetic": 150,
    "m-large": 600,
    "r1": 300,
}
"""Requests for each engine. Stock engines are behind from the first third on; `later` and `longer` tell what other cuts
would have said."""
STOCK = "fcfs"
ENGINES = (STOCK, OURS)
"""Batching policies of the engines: a stock one's, and our own."""
LOADS = (0.8, 1.0, 1.2, 1.5)
TELLING = ("late-gain", "min-load", "go-full", "min-ahead", "round-robin")
OTHERS = ("static-partition", *sorted({*ROUTERS, *LATE_ROUTERS} - {*TELLING, "static-partition"}))
"""Run at one load."""
FEW, PLACING, TWO = TELLING[:3], ("late-gain", "min-load", "go-full", "round-robin", "least-requests"), TELLING[:2]
TWO_TRACES = ("azure-conv", "mooncake-conversation")
MOONCAKE = "mooncake-conversation"
PAST_HITS = 2.0
"""Load of mooncake at which engines that hold prefixes have about as much to compute as others have at 1.2."""


def routers_of(fleet: str) -> tuple[str, ...]:
    """What is compared on a fleet other than the main one."""
    if fleet in ("mixed", "one-slow"):
        return PLACING
    if fleet == POOLED:
        return ("min-load",)
    return TWO if fleet == "h100x64" else FEW


def routing_cells() -> list[Cell]:
    """All cells, in the order in which they are run. A cell's policy is its router, its variant the engines'."""
    rest = [workload for workload in TRACES if workload not in TWO_TRACES]
    large = ("h100x16", "h100x64", "later", "longer")
    return [
        *_cells((MAIN,), TWO_TRACES, (1.2,), TELLING),
        *(cell for fleet in FLEETS if fleet not in (MAIN, *large)
          for cell in _cells((fleet,), TWO_TRACES, (1.2,), routers_of(fleet))),
        *_cells((MAIN,), rest, (1.2,), TELLING),
        *_cells((MAIN,), (MOONCAKE,), (1.0, 1.5, PAST_HITS), TELLING),
        *_cells((POOLED,), (MOONCAKE,), (1.0, 1.5, PAST_HITS), ("min-load",)),
        *(cell for fleet in large for cell in _cells((fleet,), TWO_TRACES, (1.2,), routers_of(fleet))),
        *_cells((MAIN,), TWO_TRACES, (1.2,), OTHERS),
        *_cells((MAIN,), TWO_TRACES[:1], (0.8, 1.0, 1.5), TELLING),
        *_cells((MAIN,), (MOONCAKE,), (0.8,), TELLING),
        *_cells((MAIN,), rest, (0.8, 1.0, 1.5), TELLING),
        *_cells((MAIN,), rest, (1.2,), OTHERS),
    ]  # fmt: skip


def _cells(
    fleets: Sequence[str], workloads: Sequence[str], loads: Sequence[float], routers: Sequence[str]
) -> Iterator[Cell]:
    for fleet in fleets:
        for workload in workloads:
            for load in loads:
                for router in routers:
                    for engine in ENGINES:
                        yield Cell(scenario=fleet, workload=workload, load=load, policy=router, variant=engine)


def limits_of(fleet: Fleet, calibration: Calibration) -> EngineLimits:
    """What each engine of the fleet holds."""
    limits = calibration.limits(max_sequences=fleet.max_sequences)
    return EngineLimits(
        block_size=limits.block_size,
        blocks=fleet.size * limits.blocks,
        max_sequences=fleet.size * limits.max_sequences,
        max_step_tokens=fleet.size * limits.max_step_tokens,
    )


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
    fleet = FLEETS[scenario]
    engines = len(fleet.gpus)
    chosen = _rows(workload, fleet.skipped * engines, round(fleet.share * ROWS[workload]) * engines)
    rows = rescale(chosen, rate=fleet_rate(scenario, workload, load))
    requests = tuple(make_workload(rows, mix=DEFAULT_MIX, seed=SEED))
    prefixes = {
        request.id: row.prefix_hash_ids for request, row in zip(requests, rows, strict=True) if row.prefix_hash_ids
    }
    return requests, prefixes


@cache
def _rows(workload: str, skipped: int, count: int) -> tuple[TraceRow, ...]:
    """So many rows of the workload's trace after the first `skipped`, repeated if it has fewer."""
    recorded = read_trace(shipped_trace(WORKLOADS[workload].trace), limit=skipped + count)
    first_s = recorded[0].arrival_s
    span_s = (recorded[-1].arrival_s - first_s) * len(recorded) / max(1, len(recorded) - 1)
    others = 1 + max((block for row in recorded for block in row.prefix_hash_ids), default=0)
    rows: list[TraceRow] = []
    for place in range(skipped, skipped + count):
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
