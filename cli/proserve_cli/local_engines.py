"""Engines as local processes: started together, watched, restarted when they die, and all stopped at the end."""

import asyncio
import enum
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from proserve_cli.engine_process import EngineProcess
from proserve_cli.http_get import GetError, get

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3
"""An engine that died this often more is left dead: something is wrong that starting it again does not cure."""
READY_POLL_S = 0.25


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to start one engine and where it will be."""

    name: str
    pool: str
    """Qualified name of its EnginePool."""
    policy: str
    command: Sequence[str]
    environment: Mapping[str, str]
    base_url: str
    """Root of its OpenAI server."""
    capacity_url: str
    ready_urls: tuple[str, ...]
    """It is ready when a GET of each has been answered with 200."""


class EngineState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class EngineStartError(Exception):
    """An engine did not become ready; the message has the end of its log."""


class LocalEngine:
    """One engine and its state."""

    def __init__(self, spec: EngineSpec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self.state = EngineState.STARTING
        self.restarts = 0
        self.process: EngineProcess | None = None


class LocalEngines:
    """Use as `async with`: leaving it stops every engine, however it is left."""

    def __init__(self, specs: Sequence[EngineSpec], logs: Path) -> None:
        self.engines = [LocalEngine(spec, logs / f"{spec.name}.log") for spec in specs]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "LocalEngines":
        try:
            for engine in self.engines:
                await _start(engine)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def ready(self, timeout_s: float, on_ready: Callable[[LocalEngine], None] = lambda _: None) -> None:
        """Wait until every engine answers.

        Raises:
            EngineStartError: one died or did not answer in time.
        """

        async def wait(engine: LocalEngine) -> None:
            await _wait_ready(engine, timeout_s)
            on_ready(engine)

        try:
            async with asyncio.TaskGroup() as group:
                for engine in self.engines:
                    group.create_task(wait(engine))
        except* EngineStartError as errors:
            raise EngineStartError("\n".join(str(error) for error in errors.exceptions)) from None

    def watch(self, timeout_s: float) -> None:
        """From now on restart engines that die; each gets `timeout_s` to answer again."""
        self._tasks = [asyncio.create_task(_keep_alive(engine, timeout_s)) for engine in self.engines]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(engine.process.stop() for engine in self.engines if engine.process is not None))


async def _start(engine: LocalEngine) -> None:
    engine.state = EngineState.STARTING
    try:
        engine.process = await EngineProcess.start(
            engine.spec.command, environment=engine.spec.environment, log=engine.log
        )
    except OSError as error:
        raise EngineStartError(
            f"engine {engine.spec.name}: cannot start {engine.spec.command[0]!r}: {error}"
        ) from error


async def _wait_ready(engine: LocalEngine, timeout_s: float) -> None:
    """Until the engine answers; it has failed if it dies first."""
    process = engine.process
    if process is None:
        raise RuntimeError(f"engine {engine.spec.name} was not started")
    died = asyncio.create_task(process.wait())
    answers = asyncio.create_task(_answers(engine.spec))
    try:
        await asyncio.wait({died, answers}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            engine.state = EngineState.FAILED
            what = f"exited with code {died.result()}" if died.done() else f"did not answer within {timeout_s:g} s"
            raise EngineStartError(
                f"engine {engine.spec.name} {what}; the end of its log {engine.log}:\n{process.log_tail()}"
            )
        answers.result()
    finally:
        died.cancel()
        answers.cancel()
    engine.state = EngineState.READY


async def _answers(spec: EngineSpec) -> None:
    for url in spec.ready_urls:
        while not await _is_ok(url):  # noqa: ASYNC110 - polling another process
            await asyncio.sleep(READY_POLL_S)


async def _is_ok(url: str) -> bool:
    try:
        status, _ = await get(url, timeout_s=5.0)
    except GetError:
        return False
    return status == 200


async def _keep_alive(engine: LocalEngine, timeout_s: float) -> None:
    while engine.process is not None:
        code = await engine.process.wait()
        # Whatever it started must be gone before the same ports are used again.
        await engine.process.stop()
        logger.error(
            "engine %s exited with code %d; the end of its log %s:\n%s",
            engine.spec.name, code, engine.log, engine.process.log_tail(),
        )  # fmt: skip
        if engine.restarts >= MAX_RESTARTS:
            engine.state = EngineState.FAILED
            logger.error("engine %s is given up after %d restarts", engine.spec.name, engine.restarts)
            return
        engine.restarts += 1
        try:
            await _start(engine)
            await _wait_ready(engine, timeout_s)
        except EngineStartError as error:
            logger.error("%s", error)
            # One that hangs is ended, so that the next round finds it dead.
            await engine.process.stop()
            continue
        logger.info("engine %s is back (restart %d of %d)", engine.spec.name, engine.restarts, MAX_RESTARTS)
