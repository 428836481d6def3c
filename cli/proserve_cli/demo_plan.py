"""What the demo sends and by when it is due, derived from what the engines at hand can do.

A demo that names its load in requests per second shows nothing on a machine twice as fast or half as fast. So the
engines are measured first, the load is a multiple of that, and the objectives are multiples of the latencies that were
seen while the engines were just busy. Everything chosen is printed.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import msgspec

from proserve_cli.engine_kind import EngineKind
from proserve_core.objectives import DEFAULT_CLASS, PriorityClass, ServiceObjectives
from proserve_lab.probe import Throughput
from proserve_lab.replay import ReplayRequest
from proserve_lab.trace import TraceRow
from proserve_lab.workload import LengthScale, TenantLoad, build_requests

HIGH, LOW = "interactive", "batch"
KEYS = {HIGH: "sk-demo-interactive", LOW: "sk-demo-batch"}
WEIGHTS = {HIGH: 4, LOW: 1}

LOAD = 2.0
"""Offered load over measured capacity. The engines can do about a quarter more than measured once a queue lets them
batch more, so one class alone (half of the requests) fits and both together do not. Rather too much than too little:
without a queue all policies are alike."""
FIRST_TOKEN_FACTOR = 3.0
OUTPUT_TOKEN_FACTOR = 2.0
"""Objectives of the high class over the median latencies of the probe."""
PATIENCE = 3.0
"""Objectives of the low class over those of the high one."""
FEWEST_REQUESTS = 40
UNSTEADY = 1.4
"""Measurements that differ by this factor are worth a warning."""


class DemoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What depends on the kind of engine."""

    model: str
    """Generated model that the real engines load."""
    scale: LengthScale
    concurrency: int
    """Requests in flight per engine in the probe."""
    probe_s: float
    replay_s: float
    """Time over which requests arrive."""


SETTINGS = {
    # Lengths such that a request keeps a CPU core busy for about a tenth of a second.
    EngineKind.VLLM: DemoSettings(
        model="small",
        scale=LengthScale(divisor=8, longest_prompt=512, longest_output=128),
        concurrency=16,
        probe_s=8.0,
        replay_s=30.0,
    ),
    EngineKind.EMULATED: DemoSettings(
        model="tiny",
        scale=LengthScale(divisor=2, longest_prompt=2048, longest_output=512),
        concurrency=16,
        probe_s=4.0,
        replay_s=9.0,
    ),
}


class DemoPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured and what was chosen."""

    capacity_requests_per_s: float
    capacity_tokens_per_s: float
    probe_ttft_p50_s: float
    probe_tpot_p50_s: float
    load: float
    """Offered rate over capacity."""
    rate: float
    """Requests per second."""
    requests: int
    length_divisor: float
    """Trace lengths are divided by this."""
    seed: int
    classes: dict[str, PriorityClass]


def make_plan(measured: Sequence[Throughput], *, settings: DemoSettings, rows: int, seed: int) -> DemoPlan:
    """Choose load and objectives from the mean of what was measured. `rows` is the length of the trace."""
    capacity = fmean(each.requests_per_s for each in measured)
    ttft_p50_s = fmean(each.ttft_p50_s for each in measured)
    tpot_p50_s = fmean(each.tpot_p50_s for each in measured)
    rate = LOAD * capacity
    ttft_s = _milliseconds(FIRST_TOKEN_FACTOR * ttft_p50_s)
    tpot_s = _milliseconds(OUTPUT_TOKEN_FACTOR * tpot_p50_s)
    patient = ServiceObjectives(ttft_s=_milliseconds(PATIENCE * ttft_s), tpot_s=_milliseconds(PATIENCE * tpot_s))
    objectives = {HIGH: ServiceObjectives(ttft_s=ttft_s, tpot_s=tpot_s), LOW: patient}
    return DemoPlan(
        capacity_requests_per_s=capacity,
        capacity_tokens_per_s=fmean(each.tokens_per_s for each in measured),
        probe_ttft_p50_s=ttft_p50_s,
        probe_tpot_p50_s=tpot_p50_s,
        load=LOAD,
        rate=rate,
        requests=min(rows, max(FEWEST_REQUESTS, round(rate * settings.replay_s))),
        length_divisor=settings.scale.divisor,
        seed=seed,
        classes={
            name: PriorityClass(name=name, weight=WEIGHTS[name], objectives=objectives[name]) for name in (HIGH, LOW)
        },
    )


def plan_notes(plan: DemoPlan, measured: Sequence[Throughput]) -> list[str]:
    """What makes the figures less certain than they look."""
    notes = []
    if plan.requests <= FEWEST_REQUESTS:
        notes.append(f"only {plan.requests} requests per replay: expect the figures to vary")
    rates = sorted(each.requests_per_s for each in measured)
    if rates[-1] > UNSTEADY * rates[0]:
        notes.append(
            f"the measurements differ ({', '.join(f'{rate:.1f}' for rate in rates)} requests/s): "
            "other programs use this machine, so the real load may be far from the chosen one"
        )
    return notes


def plan_requests(plan: DemoPlan, rows: Sequence[TraceRow], scale: LengthScale) -> list[ReplayRequest]:
    """The requests of the replay: the same for every policy."""
    tenants = [
        TenantLoad(name=name, api_key=KEYS[name], terms=each.terms(), share=1.0) for name, each in plan.classes.items()
    ]
    return build_requests(rows[: plan.requests], tenants=tenants, scale=scale, rate=plan.rate, seed=plan.seed)


def measuring_requests(rows: Sequence[TraceRow], scale: LengthScale) -> list[ReplayRequest]:
    """Requests like those of the replay, for the closed loop: nobody's, and as soon as possible."""
    tenant = TenantLoad(name="probe", api_key="none", terms=DEFAULT_CLASS.terms(), share=1.0)
    return build_requests(rows, tenants=[tenant], scale=scale, rate=1.0, seed=0)


def _milliseconds(seconds: float) -> float:
    """Rounded up to whole milliseconds, as resources are written."""
    return max(1, math.ceil(seconds * 1e3)) / 1e3
