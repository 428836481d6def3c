"""What headroom does when a heavy class comes in a burst, and what it costs the others; in the simulator.

The study's scenario (docs/admission.md): light requests at 1.2 times saturation all the time, heavy ones at 5% of it,
and for a quarter of the time at 70%, so 1.9 times saturation in all. Requests are drawn from a trace, arrivals are
random. Two runs, without headroom and with one that the burst fits in (95%: by what is predicted, lengths are
overestimated by some tenth), are compared.
"""

import random
from collections.abc import Sequence

import msgspec

from proserve_core.batching.registry import make_policy
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import Headroom, HeadroomMode, PriorityClass, ServiceObjectives
from proserve_core.replica import Replica
from proserve_core.routing import make_room
from proserve_lab.report.saturation import saturation_rate
from proserve_lab.shipped_traces import shipped_trace
from proserve_lab.simulation.run import Outcome, simulate
from proserve_lab.simulation.workload import SimulatedRequest
from proserve_lab.trace import TraceRow, read_trace

HEAVY, LIGHT = "heavy", "light"
OBJECTIVES = ServiceObjectives(ttft_s=1.0, tpot_s=0.05)
LIGHT_LOAD, HEAVY_LOAD, BURST_LOAD = 1.2, 0.05, 0.7
"""Shares of saturation."""
SPAN_S = 60.0
BURST_S = (20.0, 35.0)
HEAVY_TARGET, ENTITLED_TARGET, RECOVERED_TARGET_S = 0.96, 0.99, OBJECTIVES.ttft_s
LIGHT_TARGET, TOTAL_TARGET = 0.07, 0.04
_CALIBRATION = "h100-llama-3.1-8b"
_SATURATION_ROWS = 1500
_SLICE_S = 0.5


class BurstFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    mode: str
    """Of the headroom; empty without."""
    heavy: float
    """TDG ratio of heavy requests that came in the burst."""
    light: float
    """Of light ones, over the whole run."""
    light_in_burst: float
    total: float
    recovered_s: float
    """From when on in the burst the heavy class gets `HEAVY_TARGET` in every half second."""


def burst_requests(rows: Sequence[TraceRow], *, saturation: float, seed: int) -> list[SimulatedRequest]:
    """Requests of the scenario, `saturation` of them per second being all that the engines can do."""
    draw = random.Random(seed)
    heavy, light = (item.terms() for item in _classes(None))
    found: list[SimulatedRequest] = []
    begin_s, end_s = BURST_S
    for terms, load, from_s, until_s in (
        (light, LIGHT_LOAD, 0.0, SPAN_S),
        (heavy, HEAVY_LOAD, 0.0, SPAN_S),
        (heavy, BURST_LOAD - HEAVY_LOAD, begin_s, end_s),
    ):
        at_s = from_s + draw.expovariate(load * saturation)
        while at_s < until_s:
            row = draw.choice(rows)
            found.append(
                SimulatedRequest(
                    id=f"{terms.priority_class}-{len(found)}",
                    terms=terms,
                    arrival_s=at_s,
                    prompt_tokens=row.prompt_tokens,
                    output_tokens=row.output_tokens,
                )
            )
            at_s += draw.expovariate(load * saturation)
    return sorted(found, key=lambda request: request.arrival_s)


def run(
    *, trace: str, policy: str, replicas: int, seed: int, headroom: Headroom | None, rows: int | None = None
) -> BurstFigures:
    """One simulation of the scenario; `rows` of the trace are drawn from."""
    engine = load_calibration(_CALIBRATION)
    recorded = read_trace(shipped_trace(trace), limit=rows)
    rate = saturation_rate(recorded[:_SATURATION_ROWS], latency=engine.latency, objectives=OBJECTIVES)
    finished = simulate(
        burst_requests(recorded, saturation=rate * replicas, seed=seed),
        replicas=[
            Replica(
                policy=make_policy(policy),
                policy_name=policy,
                limits=engine.limits(),
                latency=engine.latency,
                engine_id=f"replica-{number}",
            )
            for number in range(replicas)
        ],
        rooms=[make_room("late-gain", _classes(headroom))],
        to_the_end=False,
    )
    return figures(finished.outcomes, mode="" if headroom is None else headroom.mode)


def figures(outcomes: Sequence[Outcome], *, mode: str) -> BurstFigures:
    """Sum a run up."""

    def of(name: str, from_s: float = 0.0, until_s: float = SPAN_S) -> float:
        return _tdg_ratio(
            [
                outcome
                for outcome in outcomes
                if outcome.request.terms.priority_class == name and from_s <= outcome.request.arrival_s < until_s
            ]
        )

    begin_s, end_s = BURST_S
    starts = [begin_s + number * _SLICE_S for number in range(round((end_s - begin_s) / _SLICE_S))]
    bad = [from_s for from_s in starts if of(HEAVY, from_s, from_s + _SLICE_S) < HEAVY_TARGET]
    return BurstFigures(
        mode=mode,
        heavy=of(HEAVY, begin_s, end_s),
        light=of(LIGHT),
        light_in_burst=of(LIGHT, begin_s, end_s),
        total=_tdg_ratio(outcomes),
        recovered_s=bad[-1] + _SLICE_S - begin_s if bad else 0.0,
    )


def report(without: BurstFigures, entitled: BurstFigures) -> str:
    """A table with targets."""
    rows = [
        ("heavy class in the burst, without headroom", without.heavy, f">= {HEAVY_TARGET}"),
        ("heavy class in the burst, within its headroom", entitled.heavy, f">= {ENTITLED_TARGET}"),
        ("seconds until the heavy class is well", entitled.recovered_s, f"<= {RECOVERED_TARGET_S:g}"),
        ("light class, without", without.light, ""),
        ("light class, with", entitled.light, f">= {without.light - LIGHT_TARGET:.4f}"),
        ("light class in the burst, without", without.light_in_burst, ""),
        ("light class in the burst, with", entitled.light_in_burst, ""),
        ("total, without", without.total, ""),
        ("total, with", entitled.total, f">= {without.total - TOTAL_TARGET:.4f}"),
    ]
    return "\n".join([f"{name:<48}{value:>8.4f}  {target}".rstrip() for name, value, target in rows])


def missed(without: BurstFigures, entitled: BurstFigures) -> list[str]:
    """Targets that were not met."""
    checks = {
        "heavy class without headroom": without.heavy >= HEAVY_TARGET,
        "heavy class within its headroom": entitled.heavy >= ENTITLED_TARGET,
        "recovery": entitled.recovered_s <= RECOVERED_TARGET_S,
        "light class": entitled.light >= without.light - LIGHT_TARGET,
        "total": entitled.total >= without.total - TOTAL_TARGET,
    }
    return [name for name, met in checks.items() if not met]


def _tdg_ratio(outcomes: Sequence[Outcome]) -> float:
    earnable = sum([outcome.account.earnable for outcome in outcomes])
    return sum([outcome.account.earned for outcome in outcomes]) / earnable if earnable else 1.0


def _classes(headroom: Headroom | None) -> tuple[PriorityClass, PriorityClass]:
    return (
        PriorityClass(name=HEAVY, weight=2, objectives=OBJECTIVES, headroom=headroom),
        PriorityClass(name=LIGHT, weight=1, objectives=OBJECTIVES),
    )


def headroom_of(percent: int, mode: str) -> Headroom:
    """Of the heavy class."""
    return Headroom(percent=percent, mode=HeadroomMode(mode))
