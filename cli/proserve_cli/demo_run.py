"""One demo from the first engine to the result: start, measure, choose, and replay under each policy.

Each replay has fresh engines of its own: a policy is an option of the engine, so nothing is switched behind its back,
and only the engines that are compared use the machine. All get the same warm-up, which is also the measurement. The
first one of a run decides on the load of all its replays; a note says when a later one differs, because then other
programs slowed the machine. Stock engines have nothing to switch: all replays of a run go to the same ones, through one
gateway after another.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proserve_cli.demo_plan import SETTINGS, DemoPlan, make_plan, measuring_requests, plan_notes, plan_requests
from proserve_cli.demo_report import DemoResult, DemoRun, plan_lines
from proserve_cli.demo_resources import ENGINES, MODEL, demo_pool, demo_resources
from proserve_cli.engine_kind import EngineKind
from proserve_cli.engine_launch import START_LIMIT_S, STOCK, engine_specs, stock_specs
from proserve_cli.gateway_process import gateway_spec
from proserve_cli.local_engines import EngineSpec, LocalEngines
from proserve_cli.signals import StopSignals
from proserve_lab.judgement import judge
from proserve_lab.probe import ProbeError, Throughput, probe
from proserve_lab.replay import replay
from proserve_lab.trace import TraceRow

GATEWAY_START_LIMIT_S = 180.0
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
        stock: bool,
        runs: int,
        seed: int,
        folder: Path,
    ) -> None:
        """`policies` are those of the engines or, in front of `stock` ones, of the gateway."""
        self.result: DemoResult | None = None
        self._kind = kind
        self._settings = SETTINGS[kind]
        self._rows = rows
        self._trace = trace
        self._policies = policies
        self._stock = stock
        self._runs = runs
        self._seed = seed
        self._folder = folder
        self._console = Console(stderr=True)

    async def main(self) -> None:
        """The whole demo. A signal ends it early, without a result."""
        with StopSignals() as stop:
            await stop.run(self._demo())

    async def _demo(self) -> None:
        started_s = time.monotonic()
        plans: list[DemoPlan] = []
        done: list[DemoRun] = []
        notes: list[str] = []
        for run in range(1, self._runs + 1):
            measured: list[Throughput] = []
            plan: DemoPlan | None = None
            for engine_policy, policies in self._groups():
                async with self._engines(run, engine_policy) as specs:
                    measured.append(await self._measure(engine_policy, specs))
                    if plan is None:
                        plan = self._plan(measured)
                        self._say(f"run {run} of {self._runs} begins after {time.monotonic() - started_s:.0f} s")
                    for policy in policies:
                        resources = demo_resources(plan, self._settings, router=policy if self._stock else None)
                        async with self._gateway(run, policy, specs, resources) as url:
                            done.append(await self._replay(run, policy, plan, url))
            if plan is not None:
                plans.append(plan)
                notes += [f"run {run}: {note}" for note in plan_notes(plan, measured)]
        self.result = DemoResult(
            engine=self._kind,
            engines=ENGINES,
            trace=self._trace,
            plans=plans,
            runs=done,
            notes=[*notes, *self._late_engines()],
            wall_s=time.monotonic() - started_s,
        )

    def _groups(self) -> Sequence[tuple[str, Sequence[str]]]:
        """Policies of engines, each with the policies that are compared in front of them."""
        return [(STOCK, self._policies)] if self._stock else [(policy, (policy,)) for policy in self._policies]

    def _plan(self, measured: Sequence[Throughput]) -> DemoPlan:
        plan = make_plan(measured, settings=self._settings, rows=len(self._rows), seed=self._seed)
        for line in plan_lines(plan):
            self._say(f"  {line}")
        return plan

    @asynccontextmanager
    async def _engines(self, run: int, policy: str) -> AsyncIterator[list[EngineSpec]]:
        """Two engines under `policy`, ended again afterwards."""
        began_s = time.monotonic()
        pool = demo_pool(self._settings)
        made = stock_specs(pool, self._kind) if self._stock else engine_specs(pool, self._kind, policy=policy)
        specs = [msgspec.structs.replace(spec, name=f"run-{run}-{policy}-{spec.name}") for spec in made]
        with self._console.status(f"starting {len(specs)} {self._kind} engines, logs in {self._folder}") as status:
            async with LocalEngines(specs, self._folder) as processes:
                await processes.ready(START_LIMIT_S[self._kind])
                status.stop()
                self._say(
                    f"{len(specs)} {self._kind} engines with {policy} ready in {time.monotonic() - began_s:.0f} s"
                )
                yield specs

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
    async def _gateway(
        self, run: int, policy: str, engines: Sequence[EngineSpec], resources: str
    ) -> AsyncIterator[str]:
        """The address of a gateway in front of the engines."""
        spec = gateway_spec(
            name=f"run-{run}-{policy}-gateway", resources=resources, engines=engines, folder=self._folder
        )
        async with LocalEngines([spec], self._folder) as processes:
            await processes.ready(GATEWAY_START_LIMIT_S)
            yield spec.base_url

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
