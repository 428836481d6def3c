"""Circumstances under which policies are compared: machine, classes and objectives, pattern of arrivals, blocks.

Load 1.0 is the saturation of the scenario's machine under the base objectives (`saturation`), whatever the scenario's
own objectives are: the same load is the same number of requests per second.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import count

import msgspec

from proserve_core.batching import EngineLimits
from proserve_core.latency.calibrations import Calibration, load_calibration
from proserve_core.objectives import PriorityClass, ServiceObjectives
from proserve_lab.report.length_shift import FACTOR, shift_lengths
from proserve_lab.report.saturation import saturation_rate
from proserve_lab.report.workloads import WORKLOADS, workload_rows
from proserve_lab.simulation.workload import DEFAULT_MIX, SimulatedRequest, make_workload
from proserve_lab.trace import TraceRow, rescale

SEED = 0
BASE = ServiceObjectives(ttft_s=1.0, tpot_s=0.05)
Mix = Sequence[tuple[PriorityClass, float]]
Arrivals = Callable[[Sequence[TraceRow], float, float], list[TraceRow]]
"""(rows, saturation, load) to rows with their arrivals."""
Noise = Callable[[], float]
Change = Callable[[list[SimulatedRequest]], list[SimulatedRequest]]
"""Gives requests other terms than the mix drew, or other lengths than were recorded."""

QUIET_LOAD = 0.5
QUIET_ROWS = 200
BURST_ROWS = 600
IDLE_S = 30.0


def _steady(rows: Sequence[TraceRow], saturation: float, load: float) -> list[TraceRow]:
    return rescale(rows, rate=saturation * load)


def _burst(rows: Sequence[TraceRow], saturation: float, load: float) -> list[TraceRow]:
    """A quiet stretch, no request for half a minute, a burst of `load`, and quiet again."""
    parts = (
        (rows[:QUIET_ROWS], QUIET_LOAD, 0.0),
        (rows[QUIET_ROWS : QUIET_ROWS + BURST_ROWS], load, IDLE_S),
        (rows[QUIET_ROWS + BURST_ROWS :], QUIET_LOAD, 0.0),
    )
    shaped: list[TraceRow] = []
    for part, part_load, pause_s in parts:
        rate = saturation * part_load
        start_s = shaped[-1].arrival_s + 1 / rate + pause_s if shaped else 0.0
        shaped += [msgspec.structs.replace(row, arrival_s=start_s + row.arrival_s) for row in rescale(part, rate=rate)]
    return shaped


def _as_drawn(requests: list[SimulatedRequest]) -> list[SimulatedRequest]:
    return requests


def _tight(requests: list[SimulatedRequest]) -> list[SimulatedRequest]:
    """TTFT 0.5 s and 0.2 ms for each prompt token, TPOT 30 ms."""
    return [
        _with_objectives(request, ServiceObjectives(ttft_s=0.5 + 2e-4 * request.prompt_tokens, tpot_s=0.03))
        for request in requests
    ]


def _with_objectives(request: SimulatedRequest, objectives: ServiceObjectives) -> SimulatedRequest:
    return msgspec.structs.replace(request, terms=msgspec.structs.replace(request.terms, objectives=objectives))


def _biggest_client_heavy(requests: list[SimulatedRequest]) -> list[SimulatedRequest]:
    """All requests of the client with the most are heavy, all others light."""
    heavy, light = (item.terms() for item, _ in DEFAULT_MIX)
    biggest = Counter(request.clues.client for request in requests).most_common(1)[0][0]
    return [
        msgspec.structs.replace(request, terms=heavy if request.clues.client == biggest else light)
        for request in requests
    ]


def _mix(heavy_share: float, *, heavy_weight: int = 2, first_token_gain: int = 1) -> Mix:
    """The two default classes with other shares, another weight or another worth of first tokens."""
    return tuple(
        (msgspec.structs.replace(item, weight=weight, first_token_gain=first_token_gain), share)
        for (item, _), weight, share in zip(DEFAULT_MIX, (heavy_weight, 1), (heavy_share, 1 - heavy_share), strict=True)
    )


_MIXED_OBJECTIVES: Mix = (
    (PriorityClass(name="high", weight=2, objectives=ServiceObjectives(ttft_s=0.5, tpot_s=0.04)), 0.5),
    (PriorityClass(name="low", weight=1, objectives=ServiceObjectives(ttft_s=30.0, tpot_s=0.2)), 0.5),
)


def _no_noise() -> Noise:
    return lambda: 1.0


def _drifting_noise(share: float) -> Noise:
    """`share` either way, as much of a drift that comes and goes in 2,000 steps, a step in 200 three times as long."""
    draw = random.Random(SEED)
    steps = count()

    def factor() -> float:
        drift = 1 + share * math.sin(2 * math.pi * next(steps) / 2000)
        return drift * draw.lognormvariate(0.0, share) * (3.0 if draw.random() < 1 / 200 else 1.0)

    return factor


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One set of circumstances."""

    title: str
    calibration: str = "h100-llama-3.1-8b"
    mix: Mix = DEFAULT_MIX
    change: Change = _as_drawn
    arrivals: Arrivals = _steady
    blocks: int | None = None
    """KV blocks; None: as calibrated."""
    max_sequences: int | None = None
    """Resident requests; None: as calibrated."""
    noise: Callable[[], Noise] = _no_noise
    """Makes what step times are multiplied by."""


SCENARIOS: dict[str, Scenario] = {
    "h100": Scenario(title="H100"),
    "h100-256": Scenario(title="H100 with at most 256 sequences, as in most published set-ups", max_sequences=256),
    "a100": Scenario(title="A100", calibration="a100-llama-3.1-8b"),
    "tight": Scenario(title="H100, TTFT 0.5 s + 0.2 ms per prompt token, TPOT 30 ms", change=_tight),
    "wp10": Scenario(title="H100, a first token worth ten others", mix=_mix(0.5, first_token_gain=10)),
    "mix-10-90": Scenario(title="H100, a tenth of the requests heavy", mix=_mix(0.1)),
    "one-client": Scenario(title="H100, the client with the most requests heavy", change=_biggest_client_heavy),
    "objectives": Scenario(
        title="H100, heavy chat (TTFT 0.5 s, TPOT 40 ms) beside light batch work (30 s, 200 ms)",
        mix=_MIXED_OBJECTIVES,
    ),
    "long-h100": Scenario(title="H100, long outputs"),
    "long-a100": Scenario(title="A100, long outputs", calibration="a100-llama-3.1-8b"),
    "burst": Scenario(title="H100, a burst after 30 s of idleness", arrivals=_burst),
    "noise": Scenario(
        title="H100, steps off by 10%, with drift and outliers that policies are not told",
        noise=partial(_drifting_noise, 0.1),
    ),
    "noise-15": Scenario(
        title="H100, the same with steps off by 15%",
        noise=partial(_drifting_noise, 0.15),
    ),
    "h100-14b": Scenario(title="H100, Qwen2.5-14B", calibration="h100-qwen2.5-14b"),
    "a100-14b": Scenario(title="A100, Qwen2.5-14B", calibration="a100-qwen2.5-14b"),
    "short": Scenario(title="H100, prompts and answers of a small model"),
    "weight-8": Scenario(title="H100, heavy requests with weight 8 instead of 2", mix=_mix(0.5, heavy_weight=8)),
    "blocks": Scenario(title="H100 with 150k KV tokens instead of 460k", blocks=9375),
    "length-shift": Scenario(
        title=f"H100, halfway the outputs of each client or prompt band become {FACTOR} times longer or shorter",
        change=shift_lengths,
    ),
}


def calibration_of(scenario: str) -> Calibration:
    return load_calibration(SCENARIOS[scenario].calibration)


def limits_of(scenario: str) -> EngineLimits:
    chosen = SCENARIOS[scenario]
    return calibration_of(scenario).limits(blocks=chosen.blocks, max_sequences=chosen.max_sequences)


@cache
def saturation_of(scenario: str, workload: str) -> float:
    """Requests per second at load 1.0."""
    latency = calibration_of(scenario).latency
    all_work = WORKLOADS[workload].all_work
    return saturation_rate(workload_rows(workload), latency=latency, objectives=BASE, all_work=all_work)


@cache
def requests_of(scenario: str, workload: str, load: float) -> tuple[SimulatedRequest, ...]:
    """The requests of a cell, in order of arrival; the same for every policy."""
    chosen = SCENARIOS[scenario]
    rows = chosen.arrivals(workload_rows(workload), saturation_of(scenario, workload), load)
    return tuple(chosen.change(make_workload(rows, mix=chosen.mix, seed=SEED)))
