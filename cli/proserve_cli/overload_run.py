"""A replay at many times what the engines can do, through a real gateway: who is served, and is anybody lost.

Emulated engines are measured first (`probe`), so that the load is a multiple of what they can do on this machine. The
heavy class has a share of the load that fits; the light ones have the rest, and their requests may wait for a bounded
time. Every request must end with its whole answer or with an error that says so; the gateway's memory is read all the
while.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import yaml

from proserve_cli.demo_plan import SETTINGS, measuring_requests
from proserve_cli.demo_resources import API_VERSION, ENGINES, MODEL, demo_pool
from proserve_cli.engine_kind import EngineKind
from proserve_cli.engine_launch import START_LIMIT_S, engine_specs
from proserve_cli.gateway_process import gateway_spec
from proserve_cli.local_engines import LocalEngines
from proserve_core.objectives import PriorityClass, ServiceObjectives
from proserve_lab.judgement import judge
from proserve_lab.probe import probe
from proserve_lab.replay import ReplayRecord, replay
from proserve_lab.trace import TraceRow
from proserve_lab.workload import LengthScale, TenantLoad, build_requests

POLICY = "recoverable-gain"
HEAVY_TARGET = 0.99
"""SLO attainment of the heavy class while its own load fits."""
GROWTH_TARGET_MB = 60.0
"""Of the gateway's memory: half of it is what it needs to begin with, the rest 20 kB for each of 1,500 streams."""
CLASSES = {
    "heavy": (PriorityClass(name="heavy", weight=8, objectives=ServiceObjectives(ttft_s=2.0, tpot_s=0.5)), 0.5),
    "middle": (PriorityClass(name="middle", weight=2, objectives=ServiceObjectives(ttft_s=4.0, tpot_s=1.0)), 1.5),
    "light": (PriorityClass(name="light", weight=1, objectives=ServiceObjectives(ttft_s=8.0, tpot_s=1.0)), 3.0),
}
"""Each with its part of the load when that is 5 times what the engines can do."""
HEAVY_PERCENT = 95
"""Headroom of the heavy class: by gain alone its longest prompts would give way to many short light ones."""
SPEED = 0.25
"""Of the emulated engines: slow ones, so that many times their load is little for gateway and client, which have no
cores of their own."""
SCALE = LengthScale(divisor=4, longest_prompt=1024, longest_output=64)
QUEUE_S = 10.0
"""Longest wait of the middle and light classes."""
TIMEOUT_S = 120.0
START_S = 180.0
PROBE_S = 8.0
_SAMPLE_S = 0.25


class ClassOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests of a class."""

    requests: int
    answered: int
    refused: int
    """With an error that says so."""
    lost: int
    """Neither: broken off, silent, or not whole."""
    slo_attainment: float
    """Of all requests, refused ones included."""
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p99_s: float | None


class OverloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """One replay."""

    capacity_requests_per_s: float
    overload: float
    classes: dict[str, ClassOutcome]
    memory_begin_mb: float
    memory_peak_mb: float

    @property
    def missed(self) -> list[str]:
        """Targets that were not met."""
        checks = {
            "the heavy class's objectives": self.classes["heavy"].slo_attainment >= HEAVY_TARGET,
            "progress of every class": all(each.answered for each in self.classes.values()),
            "nothing lost": not any(each.lost for each in self.classes.values()),
            "memory": self.memory_peak_mb - self.memory_begin_mb <= GROWTH_TARGET_MB,
        }
        return [name for name, met in checks.items() if not met]


async def run(*, rows: Sequence[TraceRow], overload: float, seconds: float, seed: int, folder: Path) -> OverloadResult:
    """Start engines and gateway, measure, replay.

    Raises:
        EngineStartError: an engine or the gateway did not start.
        ProbeError: the engines can't be measured.
    """
    settings = SETTINGS[EngineKind.EMULATED]
    specs = [
        msgspec.structs.replace(spec, command=[*spec.command, "--speed", str(SPEED)])
        for spec in engine_specs(demo_pool(settings), EngineKind.EMULATED, policy=POLICY)
    ]
    async with LocalEngines(specs, folder) as engines:
        await engines.ready(START_LIMIT_S[EngineKind.EMULATED])
        capacity = await probe(
            measuring_requests(rows, SCALE),
            urls=[spec.base_url for spec in specs],
            model=MODEL,
            concurrency=settings.concurrency,
            duration_s=PROBE_S,
        )
        rate = overload * capacity.requests_per_s
        requests = build_requests(
            rows[: max(1, round(rate * seconds))],
            tenants=[
                TenantLoad(name=name, api_key=_key(name), terms=item.terms(), share=share)
                for name, (item, share) in CLASSES.items()
            ],
            scale=SCALE,
            rate=rate,
            seed=seed,
        )
        gateway = gateway_spec(name="gateway", resources=_resources(settings.model), engines=specs, folder=folder)
        async with LocalEngines([gateway], folder) as started:
            await started.ready(START_S)
            process = started.engines[0].process
            if process is None:
                raise AssertionError("a gateway that is ready has a process")
            begin_mb = _memory_mb(process.pid)
            watching = asyncio.create_task(_peak(process.pid))
            records = await replay(requests, url=gateway.base_url, model=MODEL, timeout_s=TIMEOUT_S)
            watching.cancel()
            (peak_mb,) = await asyncio.gather(watching)
    return OverloadResult(
        capacity_requests_per_s=capacity.requests_per_s,
        overload=overload,
        classes=outcomes(records),
        memory_begin_mb=begin_mb,
        memory_peak_mb=peak_mb,
    )


def outcomes(records: Sequence[ReplayRecord]) -> dict[str, ClassOutcome]:
    """Sums by class."""
    reports = judge(records).classes
    found = {}
    for name in CLASSES:
        own = [record for record in records if record.request.terms.priority_class == name]
        answered = [record for record in own if record.error is None]
        refused = [record for record in own if record.error is not None and record.status is not None]
        found[name] = ClassOutcome(
            requests=len(own),
            answered=len(answered),
            refused=len(refused),
            lost=len(own) - len(answered) - len(refused),
            slo_attainment=reports[name].slo_attainment if name in reports else 1.0,
            ttft_p50_s=reports[name].ttft_p50_s if name in reports else None,
            ttft_p99_s=reports[name].ttft_p99_s if name in reports else None,
            tpot_p99_s=reports[name].tpot_p99_s if name in reports else None,
        )
    return found


def report(result: OverloadResult) -> str:
    """A table with targets."""
    lines = [f"{result.overload:g} times the {result.capacity_requests_per_s:.1f} requests/s that the engines can do"]
    heads = f"{'class':<10}{'requests':>10}{'answered':>10}{'refused':>10}{'lost':>6}"
    lines.append(f"{heads}{'SLO attained':>14}  time to first token")
    for name, each in result.classes.items():
        target = f"  target {HEAVY_TARGET}" if name == "heavy" else ""
        first_token = f"p50 {each.ttft_p50_s or 0:.2f} s, p99 {each.ttft_p99_s or 0:.2f} s"
        lines.append(
            f"{name:<10}{each.requests:>10}{each.answered:>10}{each.refused:>10}{each.lost:>6}"
            f"{each.slo_attainment:>14.4f}  {first_token}{target}"
        )
    growth_mb = result.memory_peak_mb - result.memory_begin_mb
    lines.append(
        f"gateway memory {result.memory_begin_mb:.0f} MB, at most {growth_mb:.0f} MB more, target {GROWTH_TARGET_MB:g}"
    )
    lines.append(f"missed: {', '.join(result.missed) or 'nothing'}")
    return "\n".join(lines)


def _resources(model: str) -> str:
    documents: list[dict[str, object]] = []
    for name, (item, _) in CLASSES.items():
        spec: dict[str, object] = {
            "weight": item.weight,
            "objectives": {
                "timeToFirstToken": f"{round(item.objectives.ttft_s * 1e3)}ms",
                "timePerOutputToken": f"{round(item.objectives.tpot_s * 1e3)}ms",
            },
        }
        if name == "heavy":
            spec["headroom"] = {"percent": HEAVY_PERCENT}
        else:
            spec["overload"] = {"action": "Queue", "maxQueueTime": f"{QUEUE_S:g}s"}
        documents.append(_document("PriorityClass", name, spec))
        key = {"secretKeyRef": {"name": "keys", "key": name}}
        documents.append(_document("Tenant", name, {"priorityClassName": name, "apiKeys": [key]}))
    keys = {name: _key(name) for name in CLASSES}
    documents.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": keys})
    pool = {
        "model": {"name": MODEL, "uri": f"generated://{model}"},
        "replicas": ENGINES,
        "routing": {"policy": "late-gain"},
    }
    documents.append(_document("EnginePool", MODEL, pool))
    return yaml.safe_dump_all(documents, sort_keys=False)


def _document(kind: str, name: str, spec: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _key(name: str) -> str:
    return f"sk-{name}"


def _memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def _peak(pid: int) -> float:
    """The most memory until it is cancelled."""
    peak_mb = 0.0
    try:
        while True:
            peak_mb = max(peak_mb, _memory_mb(pid))
            await asyncio.sleep(_SAMPLE_S)
    except asyncio.CancelledError:
        return max(peak_mb, _memory_mb(pid))
