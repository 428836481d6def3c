"""What `proserve bench fidelity` does: start engines, replay, simulate the same, compare.

The client talks to the engine directly and sends the class facts itself: what is judged is the engine and the simulator
of it, not the gateway. Rate and objectives follow from the engine's step times, so that machines of all speeds see the
same situation. A policy that learns from finished requests has seen the replays before the judged one; the simulated
policy sees them too.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from proserve_cli.engine_kind import EngineKind
from proserve_cli.engine_launch import START_LIMIT_S, engine_specs
from proserve_cli.fidelity_counts import counts_of, label_of
from proserve_cli.fidelity_report import FidelityResult, PolicyResult
from proserve_cli.fidelity_session import NAME, FidelityError, FidelitySession, Replayed
from proserve_cli.http_get import get
from proserve_cli.local_engines import LocalEngines
from proserve_cli.process_priority import prefer, preferred
from proserve_cli.signals import StopSignals
from proserve_core.batching import EngineLimits
from proserve_core.blocks.settings import KvOffload
from proserve_core.capacity import decode_snapshot
from proserve_core.kv_host import host_of
from proserve_core.latency import LatencyModel
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import PriorityClass, ServiceObjectives
from proserve_core.pools import EnginePool, EngineSettings, ModelOrigin, ModelSource, PoolModel
from proserve_lab.fidelity import (
    agreements,
    calibrate,
    measured_gain,
    step_errors,
)
from proserve_lab.judgement import judge
from proserve_lab.replay import ReplayRequest
from proserve_lab.report.saturation import saturation_rate
from proserve_lab.simulation.workload import DEFAULT_MIX
from proserve_lab.trace import TraceRow
from proserve_lab.workload import LengthScale, TenantLoad, build_requests

STEP_LOG = "PROSERVE_STEP_LOG"
TARGET_POINTS = {EngineKind.EMULATED: 1.0, EngineKind.VLLM: 3.0}
SCALES = {
    EngineKind.EMULATED: LengthScale(divisor=1, longest_prompt=1 << 20, longest_output=1 << 20),
    # Few output tokens for the work, or vLLM's HTTP server is what saturates, which no simulator of engines knows; and
    # some hundred requests, or the fate of a single long one is worth points.
    EngineKind.VLLM: LengthScale(divisor=1, longest_prompt=2048, longest_output=64, output_divisor=8),
}
MODEL = "tiny"
"""Generated model of the real engine."""
CALIBRATION = "cpu-tiny"
"""Where the simulator finds the size of that model's blocks, and the speed of copies until some were seen."""
BURST = 48
"""Requests that are sent at once to a fresh engine: steps of all sizes, for a first idea of how fast it is."""
TYPICAL_DECODES = 16
TPOT_FACTOR = 12.0
"""TPOT objective of a real engine over a step of `TYPICAL_DECODES`. Steps with a prompt of 2,000 tokens stay below it:
gain is lost by queueing. Where each step is just about as long as the objective, chance would decide."""
TTFT_FACTOR = 10.0
"""TTFT objective over the TPOT objective."""
LATE_MARK = "behind the calibrated timing"
"""In the log of an emulated engine that could not keep up."""


class FidelityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The command's options, under their names there."""

    engine: EngineKind
    policies: list[str]
    runs: int
    load: float
    seconds: float
    calibration: str
    trace: str
    seed: int
    kv_blocks: int | None = None
    """KV blocks of a real engine; None: as many as its memory has."""
    kv_offload: tuple[KvOffload, ...] = ()
    """What a real engine does with blocks of preempted requests: each policy is compared with each of them."""


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent."""

    latency: LatencyModel
    objectives: ServiceObjectives
    rate: float
    judged: list[ReplayRequest]
    calibrating: list[ReplayRequest]
    """Other requests of the trace at the same rate, for the steps around a judged replay."""


class FidelityRunner:
    """Runs the comparison; `result` is there when `main` went through to the end."""

    def __init__(self, options: FidelityOptions, *, rows: Sequence[TraceRow], folder: Path) -> None:
        self.result: FidelityResult | None = None
        self._options = options
        self._rows = rows
        self._folder = folder
        self._plan: _Plan | None = None
        self._console = Console(stderr=True)
        self._raised = False

    async def main(self) -> None:
        """The whole comparison. A signal ends it early, without a result."""
        with StopSignals() as stop, preferred() as self._raised:
            await stop.run(self._compare())

    async def _compare(self) -> None:
        started_s = time.monotonic()
        options = self._options
        if options.engine is EngineKind.EMULATED:
            results = await self._emulated()
        else:
            kinds: tuple[KvOffload | None, ...] = options.kv_offload or (None,)
            results = [await self._real(policy, kv) for policy in options.policies for kv in kinds]
        plan = self._plan
        assert plan is not None, "an engine was compared"
        self.result = FidelityResult(
            engine=options.engine,
            trace=options.trace,
            load=options.load,
            rate=plan.rate,
            requests=len(plan.judged),
            runs=options.runs,
            objectives=plan.objectives,
            latency=plan.latency,
            policies=results,
            notes=self._notes(),
            wall_s=time.monotonic() - started_s,
        )

    async def _emulated(self) -> list[PolicyResult]:
        """A fresh engine for each replay, policies in turns."""
        options = self._options
        latency = load_calibration(options.calibration).latency
        plan = self._plan = self._make_plan(latency, DEFAULT_MIX[0][0].objectives)
        pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {name: [] for name in options.policies}
        for run in range(1, options.runs + 1):
            for policy in options.policies:
                async with self._engine(policy, f"run-{run}-{policy}") as session:
                    await session.replay(plan.judged)
                pairs[policy].append((_gain(session.replays[0]), session.simulate(0, latency)[0]))
                self._say(f"{policy}: run {run} of {options.runs} done")
        return [
            PolicyResult(
                policy=policy,
                gain=agreements(pairs[policy], target_points=TARGET_POINTS[options.engine]),
                step_errors=None,
            )
            for policy in options.policies
        ]

    async def _real(self, policy: str, kv: KvOffload | None) -> PolicyResult:
        """One engine for all runs: calibration, replay, calibration, replay, ..."""
        options = self._options
        label = policy if kv is None else f"{policy}, {label_of(kv)}"
        async with self._engine(policy, label.replace(", ", "-"), kv) as session:
            # The first burst warms the engine up.
            burst = self._requests(self._rows[-BURST:], DEFAULT_MIX[0][0].objectives, rate=1e9)
            await session.replay(burst)
            await session.replay(burst)
            if self._plan is None:
                # A burst is over in seconds: the plan made from it only serves to see the engine under its real load.
                await session.replay(self._planned(calibrate(session.replays[-1].steps), burst).calibrating)
                self._plan = self._planned(calibrate(session.replays[-1].steps), burst)
            await session.replay(self._plan.calibrating)
            judged = range(len(session.replays), len(session.replays) + 2 * options.runs, 2)
            for run in range(1, options.runs + 1):
                await session.replay(self._plan.judged)
                await session.replay(self._plan.calibrating)
                self._say(f"{label}: run {run} of {options.runs} done")
        models = {
            number: calibrate(session.replays[number - 1].steps + session.replays[number + 1].steps)
            for number in judged
        }
        simulated = [session.simulate(number, models[number]) for number in judged]
        return PolicyResult(
            policy=label,
            gain=agreements(
                [(_gain(session.replays[n]), gain) for n, (gain, _) in zip(judged, simulated, strict=True)],
                target_points=TARGET_POINTS[options.engine],
            ),
            step_errors=step_errors([(models[n], session.replays[n].steps) for n in judged]),
            counts=counts_of(metrics) if (metrics := session.replays[judged[-1]].metrics) else None,
            simulated_counts=simulated[-1][1],
        )

    @asynccontextmanager
    async def _engine(self, policy: str, label: str, kv: KvOffload | None = None) -> AsyncIterator[FidelitySession]:
        """A fresh engine under `policy`, ended again afterwards."""
        kind, log = self._options.engine, self._folder / f"{label}.steps"
        spec = engine_specs(self._pool(kv), kind, policy=policy)[0]
        spec = msgspec.structs.replace(spec, name=label, environment={**spec.environment, STEP_LOG: str(log)})
        self._say(f"{policy}: starting the {kind} engine, its log is in {self._folder}")
        async with LocalEngines([spec], self._folder) as processes:
            for engine in processes.engines:
                if engine.process is not None:
                    prefer(engine.process.pid)
            await processes.ready(START_LIMIT_S[kind])
            _, body = await get(f"{spec.capacity_url}/capacity", timeout_s=10.0)
            snapshot = decode_snapshot(body)
            yield FidelitySession(
                spec,
                EngineLimits(
                    block_size=snapshot.block_size,
                    blocks=snapshot.blocks,
                    max_sequences=snapshot.max_sequences,
                    max_step_tokens=snapshot.max_step_tokens,
                ),
                log,
                None if kv is None else host_of(load_calibration(CALIBRATION), kv),
            )

    def _pool(self, kv: KvOffload | None) -> EnginePool:
        # The simulator of a real engine has no prefix cache.
        arguments = ["--no-enable-prefix-caching"]
        if self._options.kv_blocks is not None:
            # vLLM wants the longest sequence to fit.
            scale = SCALES[EngineKind.VLLM]
            arguments += ["--num-gpu-blocks-override", str(self._options.kv_blocks)]
            arguments += ["--max-model-len", str(scale.longest_prompt + scale.longest_output)]
        return EnginePool(
            name=NAME,
            namespace="default",
            model=PoolModel(name=NAME, source=ModelSource(origin=ModelOrigin.GENERATED, location=MODEL)),
            replicas=1,
            calibration=self._options.calibration,
            engine=EngineSettings(args=tuple(arguments), kv_offload=kv),
        )

    def _planned(self, latency: LatencyModel, typical: Sequence[ReplayRequest]) -> _Plan:
        """The plan for a real engine."""
        return self._make_plan(latency, _objectives(latency, typical))

    def _make_plan(self, latency: LatencyModel, objectives: ServiceObjectives) -> _Plan:
        options, rows = self._options, self._rows
        scale = SCALES[options.engine]
        scaled = [
            msgspec.structs.replace(
                row, prompt_tokens=scale.prompt(row.prompt_tokens), output_tokens=scale.output(row.output_tokens)
            )
            for row in rows
        ]
        rate = options.load * saturation_rate(scaled, latency=latency, objectives=objectives)
        judged = round(rate * options.seconds)
        needed = judged if options.engine is EngineKind.EMULATED else 2 * judged
        if judged < 2 or needed > len(rows):
            raise FidelityError(
                f"--seconds: {options.seconds:g} s at {rate:.1f} requests/s take {needed} requests of the trace, which "
                f"has {len(rows)}"
            )
        self._say(
            f"{rate:.1f} requests/s, {options.load:g} of saturation; first token within {objectives.ttft_s * 1e3:.0f} "
            f"ms, then {objectives.tpot_s * 1e3:.0f} ms per token"
        )
        return _Plan(
            latency=latency,
            objectives=objectives,
            rate=rate,
            judged=self._requests(rows[:judged], objectives, rate=rate),
            calibrating=self._requests(rows[judged : 2 * judged], objectives, rate=rate),
        )

    def _requests(self, rows: Sequence[TraceRow], objectives: ServiceObjectives, *, rate: float) -> list[ReplayRequest]:
        senders = [
            TenantLoad(
                name=each.name,
                api_key="none",
                terms=PriorityClass(name=each.name, weight=each.weight, objectives=objectives).terms(),
                share=share,
            )
            for each, share in DEFAULT_MIX
        ]
        options = self._options
        return build_requests(rows, tenants=senders, scale=SCALES[options.engine], rate=rate, seed=options.seed)

    def _notes(self) -> list[str]:
        notes = []
        if not self._raised:
            notes.append("not allowed to raise the priority of the engines: other programs on this machine disturb")
        late = [
            log.stem
            for log in sorted(self._folder.glob("*.log"))
            if LATE_MARK in log.read_text(encoding="utf-8", errors="replace")
        ]
        if late:
            notes.append(f"this machine was too busy for its emulated engines: {', '.join(late)} were late")
        return notes

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _gain(replayed: Replayed) -> dict[str, float]:
    return measured_gain(judge(replayed.records))


def _objectives(latency: LatencyModel, requests: Sequence[ReplayRequest]) -> ServiceObjectives:
    """Objectives of a real engine, in whole milliseconds."""
    context = sum(each.prompt_tokens + each.output_tokens / 2 for each in requests) / len(requests)
    step_s = latency.sums_s(TYPICAL_DECODES, 0, TYPICAL_DECODES * context, TYPICAL_DECODES)
    tpot_s = round(1e3 * TPOT_FACTOR * step_s) / 1e3
    return ServiceObjectives(ttft_s=TTFT_FACTOR * tpot_s, tpot_s=tpot_s)
