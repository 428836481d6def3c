"""One demo from the first engine to the result: start, measure, choose, and replay under each policy.

Each policy has engines and a gateway of its own, started when they are first needed and kept for further runs; those
of the other policies are idle meanwhile. A policy is an option of the engine, so nothing is switched behind its back.
"""

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proserve_cli.demo_plan import FEWEST_REQUESTS, SETTINGS, DemoPlan, make_plan, measuring_requests, plan_requests
from proserve_cli.demo_report import DemoResult, DemoRun, plan_lines
from proserve_cli.demo_resources import ENGINES, MODEL, demo_pool, demo_resources
from proserve_cli.engine_kind import EngineKind
from proserve_cli.engine_launch import START_LIMIT_S, engine_specs
from proserve_cli.gateway_process import gateway_spec
from proserve_cli.local_engines import EngineSpec, LocalEngines
from proserve_cli.signals import StopSignals
from proserve_lab.judgement import judge
from proserve_lab.probe import ProbeError, probe
from proserve_lab.replay import replay
from proserve_lab.trace import TraceRow

GATEWAY_START_LIMIT_S = 60.0
REQUEST_TIMEOUT_S = 300.0


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
        self._plan: DemoPlan | None = None
        self._gateways: dict[str, str] = {}
        self._console = Console(stderr=True)

    async def main(self) -> None:
        """The whole demo. A signal ends it early, without a result."""
        with StopSignals() as stop:
            async with AsyncExitStack() as stack:
                await stop.run(self._demo(stack))

    async def _demo(self, stack: AsyncExitStack) -> None:
        started_s = time.monotonic()
        done: list[DemoRun] = []
        for run in range(1, self._runs + 1):
            for policy in self._policies:
                if policy not in self._gateways:
                    self._gateways[policy] = await self._start(stack, policy)
                done.append(await self._replay(run, policy))
        if self._plan is not None:
            self.result = DemoResult(
                engine=self._kind,
                engines=ENGINES,
                trace=self._trace,
                plan=self._plan,
                runs=done,
                notes=self._notes(),
                wall_s=time.monotonic() - started_s,
            )

    async def _start(self, stack: AsyncExitStack, policy: str) -> str:
        """Engines and gateway of one policy; the first time also the measurement. Returns the gateway's address."""
        began_s = time.monotonic()
        specs = [
            msgspec.structs.replace(spec, name=f"{policy}-{spec.name}")
            for spec in engine_specs(demo_pool(self._settings), self._kind, policy=policy)
        ]
        with self._console.status(f"starting {len(specs)} {self._kind} engines ({policy}), logs in {self._folder}"):
            engines = await stack.enter_async_context(LocalEngines(specs, self._folder))
            await engines.ready(START_LIMIT_S[self._kind])
        self._say(f"{len(specs)} {self._kind} engines with {policy} ready after {time.monotonic() - began_s:.0f} s")
        if self._plan is None:
            self._plan = await self._measure(specs)
            for line in plan_lines(self._plan):
                self._say(f"  {line}")
        resources = demo_resources(self._plan, self._settings)
        spec = gateway_spec(name=f"{policy}-gateway", resources=resources, engines=specs, folder=self._folder)
        gateway = await stack.enter_async_context(LocalEngines([spec], self._folder))
        await gateway.ready(GATEWAY_START_LIMIT_S)
        return spec.base_url

    async def _measure(self, specs: Sequence[EngineSpec]) -> DemoPlan:
        settings = self._settings
        requests = measuring_requests(self._rows, settings.scale)
        with self._console.status(f"measuring what the engines can do ({settings.probe_s:g} s)"):
            try:
                measured = await probe(
                    requests,
                    urls=[spec.base_url for spec in specs],
                    model=MODEL,
                    concurrency=settings.concurrency,
                    duration_s=settings.probe_s,
                )
            except ProbeError as error:
                raise DemoError(f"measuring the engines: {error}; their logs are in {self._folder}") from error
        return make_plan(measured, settings=settings, rows=len(self._rows), seed=self._seed)

    async def _replay(self, run: int, policy: str) -> DemoRun:
        if self._plan is None:
            raise RuntimeError("nothing was measured before the first replay")
        requests = plan_requests(self._plan, self._rows, self._settings.scale)
        label = f"run {run} of {self._runs}: {policy}" if self._runs > 1 else policy
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task(label, total=len(requests))
            records = await replay(
                requests,
                url=self._gateways[policy],
                model=MODEL,
                timeout_s=REQUEST_TIMEOUT_S,
                on_done=lambda _: progress.advance(task),
            )
        report = judge(records)
        self._say(f"{label}: {len(records)} requests answered after {report.duration_s:.0f} s")
        return DemoRun(run=run, policy=policy, report=report)

    def _notes(self) -> list[str]:
        """What a reader of the figures should know."""
        notes = []
        if self._plan is not None and self._plan.requests <= FEWEST_REQUESTS:
            notes.append(f"only {self._plan.requests} requests per replay: expect the figures to vary")
        late = [log.name for log in sorted(self._folder.glob("*.log")) if "behind the calibrated timing" in _text(log)]
        if late:
            notes.append(f"this machine was too busy for the emulated engines ({', '.join(late)}): they were late")
        return notes

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
