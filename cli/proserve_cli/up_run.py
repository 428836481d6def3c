"""One run of `proserve up`: engines, then the gateway, then its state until a signal, then all of it down again."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from proserve_cli.addresses import Address
from proserve_cli.local_engines import EngineSpec, EngineState, LocalEngine, LocalEngines
from proserve_cli.send_hint import http_root, listening, sample_request
from proserve_cli.signals import StopSignals
from proserve_cli.status_view import ClassLine, EngineLine, Status, show_status
from proserve_core.gain import GainTotals
from proserve_core.resources import Resources

if TYPE_CHECKING:
    from proserve_gateway.configuration.configuration import ConfigurationSource
    from proserve_gateway.fleet.status import EngineStatus
    from proserve_gateway.fleet.target import EngineTarget
    from proserve_gateway.server import Gateway, GatewayConfig

logger = logging.getLogger(__name__)

DRAIN_S = 5.0
"""What open requests get when the user wants everything to stop; a second signal cuts it short."""
GATEWAY_READY_S = 180.0


class UpError(Exception):
    """The gateway can't be started; the message says why."""


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where the gateway listens."""

    http: Address
    grpc: Address
    admin: Address


class UpRun:
    """One run of the command."""

    def __init__(
        self,
        *,
        source: "ConfigurationSource",
        resources: Resources,
        specs: Sequence[EngineSpec],
        addresses: Addresses,
        engine_keys: Path,
        start_limit_s: float,
        logs: Path,
        record: Path | None = None,
    ) -> None:
        self._source = source
        self._resources = resources
        self._specs = specs
        self._addresses = addresses
        self._engine_keys = engine_keys
        self._start_limit_s = start_limit_s
        self._logs = logs
        self._record = record
        self._console = Console(stderr=True)

    async def main(self) -> None:
        """Everything from the first process to the last."""
        with StopSignals() as stop:
            # Before any engine is started: an address that is taken should not cost a minute.
            gateway = self._gateway()
            self._say(f"starting {len(self._specs)} engines, logs in {self._logs}")
            async with LocalEngines(self._specs, self._logs) as engines, _stopping(gateway, stop):
                if await stop.run(engines.ready(self._start_limit_s, self._say_ready)):
                    engines.watch(self._start_limit_s)
                    await stop.run(self._serve(gateway, engines))
                self._say("stopping; Ctrl-C again does not wait for open requests")
        self._say("stopped")

    async def _serve(self, gateway: "Gateway", engines: LocalEngines) -> None:
        """Say where to send requests, then show the state until something breaks."""
        try:
            await gateway.start()
        except OSError as error:
            raise UpError(f"cannot listen on {self._addresses.grpc}: {error}") from error
        await self._ready(gateway)
        self._say(listening(gateway, grpc_host=self._addresses.grpc.host))
        self._say(sample_request(self._resources, http_root(gateway), private=sys.stderr.isatty()))
        gateway.follow(self._source)
        await show_status(self._console, lambda: self._status(gateway, engines))

    async def _ready(self, gateway: "Gateway") -> None:
        """Wait until the gateway has heard from every pool; servers that somebody else runs may take longer."""
        end_s = time.monotonic() + GATEWAY_READY_S
        while gateway.missing:
            if time.monotonic() > end_s:
                logger.warning("not ready yet: %s", "; ".join(gateway.missing))
                return
            await asyncio.sleep(0.05)

    def _gateway(self) -> "Gateway":
        from proserve_gateway.server import Gateway

        try:
            return Gateway(self._config())
        except (OSError, ValueError) as error:
            raise UpError(f"the gateway on {self._addresses.http} and {self._addresses.admin}: {error}") from error

    @property
    def targets(self) -> tuple["EngineTarget", ...]:
        """The engines as the gateway knows them."""
        from proserve_gateway.fleet.target import EngineTarget

        return tuple(
            EngineTarget(name=spec.name, pool=spec.pool, base_url=spec.base_url, capacity_url=spec.capacity_url)
            for spec in self._specs
        )

    def _config(self) -> "GatewayConfig":
        from proserve_gateway.security.credentials import CredentialFiles
        from proserve_gateway.server import GatewayConfig, Listen

        addresses = self._addresses
        return GatewayConfig(
            resources=self._resources,
            engines=self.targets,
            http=Listen(addresses.http.host, addresses.http.port),
            grpc=Listen(addresses.grpc.host, addresses.grpc.port),
            admin=Listen(addresses.admin.host, addresses.admin.port),
            record=self._record,
            credentials=CredentialFiles(engine_keys=self._engine_keys),
        )

    def _status(self, gateway: "Gateway", engines: LocalEngines) -> Status:
        local = {engine.spec.name: engine for engine in engines.engines}
        gains = gateway.accounting.ledger.by_class()
        return Status(
            engines=[_engine_line(row, local.get(row.name)) for row in gateway.fleet.status()],
            classes=[
                ClassLine(name=each.name, requests=totals.requests, tdg_ratio=totals.tdg_ratio)
                for each in gateway.priority_classes
                for totals in [gains.get(each.name, GainTotals())]
            ],
        )

    def _say_ready(self, engine: LocalEngine) -> None:
        self._say(f"engine {engine.spec.name} is ready: {engine.spec.policy}, {engine.spec.base_url}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@asynccontextmanager
async def _stopping(gateway: "Gateway", stop: StopSignals) -> AsyncIterator[None]:
    """Stops the gateway at the end, while its engines still run."""
    try:
        yield
    finally:
        stop.again()
        if not await stop.run(gateway.stop(DRAIN_S)):
            await gateway.stop(0.0)


def _engine_line(row: "EngineStatus", engine: LocalEngine | None) -> EngineLine:
    """What the gateway knows, unless we know that the process is not there."""
    there = engine is None or engine.state is EngineState.READY
    return EngineLine(
        name=row.name,
        state=row.state if engine is None or there else engine.state,
        policy=row.policy,
        running=row.running if there else None,
        waiting=row.waiting if there else None,
        free_blocks=row.free_blocks if there else None,
        blocks=row.blocks,
        restarts=engine.restarts if engine is not None else 0,
    )
