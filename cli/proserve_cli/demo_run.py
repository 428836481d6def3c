"""One demo from the first engine to the result: start, measure, choose, and replay under each policy.

Each policy has engines of its own, all started before the first replay; those of the other policies are idle meanwhile.
A policy is an option of the engine, so nothing is switched behind its back. Before each run all engines are measured,
which gives each the same warm-up, and the mean decides on the load, because other programs slow a machine now and then.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proserve_cli.demo_plan import SETTINGS, DemoPlan, make_plan, measuring_requests, plan_notes, plan_requests
from proserve_cli.demo_report import DemoResult, DemoRun, plan_lines
from proserve_cli.demo_resources import ENGINES, MODEL, demo_pool, demo_resources
from proserve_cli.engine_kind import EngineKind
from proserve_cli.engine_launch import START_LIMIT_S, engine_specs
from proserve_cli.gateway_process import gateway_spec
from proserve_cli.local_engines import EngineSpec, LocalEngines
from proserve_cli.signals import StopSignals
from proserve_lab.judgement import judge
from proserve_lab.probe import ProbeError, Throughput, probe
from proserve_lab.replay import replay
from proserve_lab.trace import TraceRow

GATEWAY_START_LIMIT_S = 60.0
REQUEST_TIMEOUT_S = 300.0
LATE_MARK = "behind the calibrated timing"
"""In the log of an emulated engine that could not keep up."""


class DemoError(Exception):
    """The demo can't go on; the message says why."""


class DemoRunner:
    """Runs the demo; `result` is there when `main` went through to the end."""

    def __init__(
        self,
        *,
        kind: EngineKind,
        rows: Sequence[TraceRow],
        trace: str,
        policies: Sequence[str],
        runs: int,
        seed: int,
        folder: Path,
    ) -> None:
        self.result: DemoResult | None = None
        self._kind = kind
        self._settings = SETTINGS[kind]
        self._rows = rows
        self._trace = trace
        self._policies = policies
        self._runs = runs
        self._seed = seed
        self._folder = folder
        self._console = Console(stderr=True)

    async def main(self) -> None:
        """The whole demo. A signal ends it early, without a result."""
        with StopSignals() as stop:
            async with AsyncExitStack() as stack:
                await stop.run(self._demo(stack))

    async def _demo(self, stack: AsyncExitStack) -> None:
        started_s = time.monotonic()
        engines = await self._start_engines(stack)
        plans: list[DemoPlan] = []
        done: list[DemoRun] = []
        notes: list[str] = []
        for run in range(1, self._runs + 1):
            measured = [await self._measure(policy, specs) for policy, specs in engines.items()]
            plan = make_plan(measured, settings=self._settings, rows=len(self._rows), seed=self._seed)
            plans.append(plan)
            notes += [f"run {run}: {note}" for note in plan_notes(plan, measured)]
            for line in plan_lines(plan):
                self._say(f"  {line}")
            async with self._gateways(engines, demo_resources(plan, self._settings)) as gateways:
                self._say(f"run {run} of {self._runs} begins after {time.monotonic() - started_s:.0f} s")
                done += [await self._replay(run, policy, plan, gateways[policy]) for policy in self._policies]
        self.result = DemoResult(
            engine=self._kind,
            engines=ENGINES,
            trace=self._trace,
            plans=plans,
            runs=done,
            notes=[*notes, *self._late_engines()],
            wall_s=time.monotonic() - started_s,
        )

    async def _start_engines(self, stack: AsyncExitStack) -> dict[str, list[EngineSpec]]:
        """All engines at once: two for each policy."""
        began_s = time.monotonic()
        engines = {
            policy: [
                msgspec.structs.replace(spec, name=f"{policy}-{spec.name}")
                for spec in engine_specs(demo_pool(self._settings), self._kind, policy=policy)
            ]
            for policy in self._policies
        }
        specs = [spec for each in engines.values() for spec in each]
        with self._console.status(f"starting {len(specs)} {self._kind} engines, logs in {self._folder}"):
            processes = await stack.enter_async_context(LocalEngines(specs, self._folder))
            await processes.ready(START_LIMIT_S[self._kind])
        self._say(f"{len(specs)} {self._kind} engines ready after {time.monotonic() - began_s:.0f} s")
        return engines

    async def _measure(self, policy: str, specs: Sequence[EngineSpec]) -> Throughput:
        """Also warms the engines up: each policy's get the same, and learn their step times from it."""
        settings = self._settings
        with self._console.status(f"measuring what the engines can do: {policy}, {settings.probe_s:g} s"):
            try:
                return await probe(
                    measuring_requests(self._rows, settings.scale),
                    urls=[spec.base_url for spec in specs],
                    model=MODEL,
                    concurrency=settings.concurrency,
                    duration_s=settings.probe_s,
                )
            except ProbeError as error:
                raise DemoError(f"measuring the engines: {error}; their logs are in {self._folder}") from error

    @asynccontextmanager
    async def _gateways(
        self, engines: Mapping[str, Sequence[EngineSpec]], resources: str
    ) -> AsyncIterator[dict[str, str]]:
        """One in front of each policy's engines; their addresses by policy."""
        gateways = {
            policy: gateway_spec(name=f"{policy}-gateway", resources=resources, engines=specs, folder=self._folder)
            for policy, specs in engines.items()
        }
        async with LocalEngines(list(gateways.values()), self._folder) as processes:
            await processes.ready(GATEWAY_START_LIMIT_S)
            yield {policy: spec.base_url for policy, spec in gateways.items()}

    async def _replay(self, run: int, policy: str, plan: DemoPlan, gateway: str) -> DemoRun:
        requests = plan_requests(plan, self._rows, self._settings.scale)
        label = f"run {run} of {self._runs}, {policy}"
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task(label, total=len(requests))
            records = await replay(
                requests,
                url=gateway,
                model=MODEL,
                timeout_s=REQUEST_TIMEOUT_S,
                on_done=lambda _: progress.advance(task),
            )
        report = judge(records)
        self._say(f"{label}: {len(records)} requests answered after {report.duration_s:.0f} s")
        return DemoRun(run=run, policy=policy, report=report)

    def _late_engines(self) -> list[str]:
        late = [log.stem for log in sorted(self._folder.glob("*.log")) if LATE_MARK in _text(log)]
        return [f"this machine was too busy for its emulated engines: {', '.join(late)} were late"] if late else []

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
