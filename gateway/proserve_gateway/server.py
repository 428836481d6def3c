"""The whole gateway in one process and one event loop: data ports, admin port, and what connects them.

Configuration comes from outside and is replaced as a whole by `configure`; nothing here needs whoever wrote it to be up
(ARCHITECTURE, section 4). Shutdown: readiness goes first, no new requests, open ones end within the drain time, what is
left then ends with an explicit error.
"""

import asyncio
import gc
import itertools
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import Counter

from proserve_core.objectives import PriorityClass
from proserve_core.resources import Resources
from proserve_core.routing import make_room
from proserve_gateway.admin.app import Readiness, admin_app
from proserve_gateway.admin.guard import guarded
from proserve_gateway.admin.http_server import HttpServer
from proserve_gateway.background import Background
from proserve_gateway.configuration.catalog import Catalog, qualified_name
from proserve_gateway.configuration.configuration import ConfigurationRecord, ConfigurationSource, Problems, follow
from proserve_gateway.fleet.engine_decisions import engine_decisions
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.metrics import FleetCollector, RouteCounter
from proserve_gateway.fleet.poller import Poller, PollResult
from proserve_gateway.fleet.queue_metrics import QueueMetrics
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.grpc.limits import GrpcLimits
from proserve_gateway.http.api import HttpApi
from proserve_gateway.http.data_server import DataServer
from proserve_gateway.http.listening import CLOSING_S, take_descriptors
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.quotas.metrics import QuotaCollector
from proserve_gateway.quotas.quotas import Quotas
from proserve_gateway.requests.dispatch import Dispatcher
from proserve_gateway.requests.dispatch_errors import shutting_down
from proserve_gateway.requests.intake import Intake
from proserve_gateway.security.credentials import ENGINE_KEYS, CredentialFiles, Credentials
from proserve_gateway.security.renewals import keep_renewed
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.accounting_metrics import AccountingCollector
from proserve_gateway.seeing.class_metrics import ClassCollector
from proserve_gateway.seeing.seeing import Seeing
from proserve_gateway.upstream.client import UpstreamClient
from proserve_gateway.upstream.exchange import UpstreamLimits

if TYPE_CHECKING:
    from proserve_gateway.grpc.server import GrpcServer
    from proserve_gateway.quotas.store import QuotaStore

logger = logging.getLogger(__name__)

GC_THRESHOLDS = (50_000, 50, 100)


class Listen(msgspec.Struct, frozen=True):
    """Where a port is opened; port 0 picks a free one."""

    host: str
    port: int


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a gateway needs to start."""

    resources: Resources
    engines: tuple[EngineTarget, ...] = ()
    """Engines that were started for pools; the `endpoints` of pools are added to them."""
    http: Listen = Listen("127.0.0.1", 8080)
    grpc: Listen | None = None
    admin: Listen | None = None
    in_cluster: bool = False
    """The configuration comes from a source only, and the gateway is not ready before it has come."""
    drain_s: float = 30.0
    """How long open requests may take to end after the first signal to stop."""
    grpc_limits: GrpcLimits = GrpcLimits()
    upstream_limits: UpstreamLimits = UpstreamLimits()
    credentials: CredentialFiles = CredentialFiles()
    quota_store: str | None = None
    """URL of the Valkey or Redis server in which gateways add up what tenants use; None: this one counts alone."""
    record: Path | None = None
    """File for a line per request that has ended."""


def endpoint_targets(resources: Resources) -> tuple[EngineTarget, ...]:
    """The engines of pools that name servers which somebody else runs."""
    return tuple(
        EngineTarget(
            name=f"{qualified_name(pool.namespace, pool.name)}-{number}",
            pool=qualified_name(pool.namespace, pool.name),
            base_url=endpoint.url,
            api_key=None if endpoint.api_key is None else resources.secret_value(pool.namespace, endpoint.api_key),
        )
        for pool in resources.engine_pools
        for number, endpoint in enumerate(pool.endpoints)
    )


class Gateway:
    """A gateway. Create, start and stop it inside one event loop."""

    def __init__(self, config: GatewayConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Binds the HTTP ports.

        Raises:
            ValueError: the configuration contradicts itself (see `Catalog.from_resources`, `Fleet.set_targets`), a
                certificate or key can't be used, or `quota_store` is no address of a store.
            OSError: an address can't be had, or a file can't be written.
        """
        self._config = config
        self._credentials = Credentials(config.credentials)
        self.metrics = GatewayMetrics()
        self._background = Background(self.metrics)
        self.accounting = Accounting(self.metrics)
        AccountingCollector(self.accounting, self.metrics)
        self.configuration = ConfigurationRecord(self.metrics)
        self._intake = Intake(
            catalog=Catalog.from_resources(config.resources), accounting=self.accounting, starting=config.in_cluster
        )
        self.fleet = Fleet(
            make_room=make_room,
            clock=clock,
            on_decision=RouteCounter(self.metrics),
            queue_metrics=QueueMetrics(self.metrics),
            stuck_s=config.upstream_limits.stuck_s,
        )
        FleetCollector(self.fleet, self.metrics)
        self.readiness = Readiness(self.fleet, clock=clock, in_cluster=config.in_cluster)
        self._problems: Problems = {}
        self._upstream = UpstreamClient(config.upstream_limits, self._credentials.engine_tls)
        self.quotas = Quotas(None if config.quota_store is None else _quota_store(config.quota_store))
        QuotaCollector(self.quotas, self.metrics)
        ClassCollector(lambda: self._intake.catalog, self.metrics)
        self._seeing = Seeing(
            accounting=self.accounting,
            metrics=self.metrics,
            fleet=self.fleet,
            catalog=lambda: self._intake.catalog,
            clock=clock,
            record=config.record,
        )
        dispatcher = Dispatcher(
            fleet=self.fleet,
            accounting=self.accounting,
            upstream=self._upstream,
            metrics=self.metrics,
            decisions=self._seeing.decisions,
            clock=clock,
            quotas=self.quotas,
        )
        self._applied: tuple[Resources, Sequence[EngineTarget]] = config.resources, config.engines
        self._polls: dict[tuple[str, PollResult], Counter] = {}
        self._set_targets(*self._applied)
        self._poller = Poller(self.fleet, tls=self._credentials.engine_tls, on_poll=self._count_poll)
        api = HttpApi(intake=self._intake, dispatcher=dispatcher, clock=clock)
        self.http = DataServer(
            api,
            host=config.http.host,
            port=config.http.port,
            background=self._background,
            stall_ms=round(config.upstream_limits.stall_s * 1e3),
            tls=None if self._credentials.tls is None else self._credentials.tls.context,
        )
        self.admin = self._admin_server(config.admin) if config.admin is not None else None
        self._new_grpc = None if config.grpc is None else self._grpc_server(dispatcher, clock)
        self._grpc: GrpcServer | None = None
        self.grpc_port: int | None = None

    async def start(self) -> None:
        """Open the ports; returns when requests are accepted. Engines may take longer: see `missing`.

        Raises:
            OSError: the gRPC address can't be had.
        """
        background = self._background
        background.hear(asyncio.get_running_loop())
        background.run("polls of engines", self._poller.run)
        for name, part in self._credentials.parts.items():
            background.run(f"renewal of {name}", partial(keep_renewed, name, part, on_change=self._renewed))
        if self.quotas.store is not None:
            background.run("quota store", partial(self.quotas.run, self.quotas.store))
        self._seeing.start(background)
        await self.http.start()
        if self.admin is not None:
            await self.admin.start()
        if self._config.grpc is not None and self._new_grpc is not None:
            self._grpc = self._new_grpc()
            self.grpc_port = await self._grpc.start(
                self._config.grpc.host, self._config.grpc.port, self._credentials.tls
            )

    @property
    def missing(self) -> list[str]:
        """What keeps the gateway from being ready; empty when it is."""
        return self.readiness.missing(pool.name for pool in self._intake.catalog.pools.values())

    @property
    def priority_classes(self) -> Iterable[PriorityClass]:
        """Of the configuration in force."""
        return self._intake.catalog.priority_classes.values()

    def configure(self, resources: Resources, engines: Sequence[EngineTarget]) -> None:
        """Replace the configuration (`ConfigurationTaker`). Requests under way keep what they were given, engines and
        pools that stay keep their state."""
        catalog = Catalog.from_resources(resources)
        self._set_targets(resources, engines)
        self._applied = resources, engines
        self._intake.take(catalog)
        self.readiness.configured()
        self.configuration.applied()

    def refused(self, error: str) -> None:
        """A new configuration can't be used (`ConfigurationTaker`)."""
        self.configuration.refused(error)

    def left_out(self, problems: Problems) -> None:
        """Resources are not in the configuration as they are (`ConfigurationTaker`)."""
        self._problems = problems

    def unlisted(self, lists: int) -> None:
        """Rights are missing (`ConfigurationTaker`)."""
        self.metrics.configuration_unlisted.set(lists)

    def follow(self, source: ConfigurationSource) -> None:
        """Take what this source brings, until the gateway has stopped."""
        self._background.run("configuration", partial(follow, source, self))

    async def stop(self, drain_s: float | None = None) -> None:
        """Drain and close. A second call with a shorter time cuts a drain short."""
        drain_s = self._config.drain_s if drain_s is None else drain_s
        self.readiness.stopping = True
        self.http.close()
        ending: set[asyncio.Task[Any]] = {asyncio.create_task(self.http.drained(drain_s))}
        if self._grpc is not None:
            ending.add(asyncio.create_task(self._grpc.stop(drain_s + CLOSING_S)))
        await asyncio.wait(ending, timeout=drain_s)
        if left := self._upstream.open_exchanges + self.fleet.waiting:
            logger.warning("%d requests did not end within %g s and are failed", left, drain_s)
            self.fleet.turn_away(shutting_down)
            self._upstream.stop_exchanges()
        await self.http.wait_closed(CLOSING_S)
        await asyncio.wait(ending)
        if self.admin is not None:
            self.admin.close()
            await self.admin.wait_closed(0.0)
        await self._background.stop()
        if self.quotas.store is not None:
            await self.quotas.store.close()
        await self._seeing.stop()
        self._upstream.close()

    def _set_targets(self, resources: Resources, engines: Sequence[EngineTarget]) -> None:
        targets = [*self._credentials.with_key(engines), *endpoint_targets(resources)]
        policies = {qualified_name(pool.namespace, pool.name): pool.routing_policy for pool in resources.engine_pools}
        for target in targets:
            if target.pool not in policies:
                raise ValueError(f"engine {target.name} belongs to pool {target.pool!r}, which is not configured")
        self.fleet.set_targets(targets, policies)
        for engine, result in self._polls.keys() - itertools.product({target.name for target in targets}, PollResult):
            del self._polls[engine, result]
            self.metrics.polls.remove(engine, result)
        if self._config.in_cluster:
            self.fleet.first_engines.use(
                qualified_name(pool.namespace, pool.name)
                for pool in resources.engine_pools
                if pool.scaling is not None and pool.scaling.min_engines == 0
            )
        for _, headroom in self.fleet.headrooms():
            headroom.set_classes(resources.priority_classes)

    def _renewed(self, part: str, good: bool) -> None:
        self.metrics.renewals.labels(part, "applied" if good else "refused").inc()
        if good and part == ENGINE_KEYS:
            self._set_targets(*self._applied)

    def _count_poll(self, engine: str, result: PollResult) -> None:
        child = self._polls.get((engine, result))
        if child is None:
            child = self._polls[engine, result] = self.metrics.polls.labels(engine, result)
        child.inc()

    def _grpc_server(self, dispatcher: Dispatcher, clock: Callable[[], float]) -> "Callable[[], GrpcServer]":
        # Without the port the gateway needs neither the library's 16 MB nor its threads.
        from proserve_gateway.grpc.api import GrpcApi
        from proserve_gateway.grpc.server import GrpcServer

        limits = self._config.grpc_limits
        api = GrpcApi(intake=self._intake, dispatcher=dispatcher, clock=clock, limits=limits)
        background = self._background
        return lambda: GrpcServer(api, background=background, ready=lambda: not self.missing, limits=limits)

    def _admin_server(self, listen: Listen) -> HttpServer:
        app = admin_app(
            catalog=lambda: self._intake.catalog,
            fleet=self.fleet,
            accounting=self.accounting,
            metrics=self.metrics,
            readiness=self.readiness,
            seeing=self._seeing,
            problems=lambda: self._problems,
            configuration_error=lambda: self.configuration.error,
            of_engine=engine_decisions(self.fleet, self._upstream),
        )
        asked = guarded(app, self._credentials.admin_keys)
        return HttpServer(asked, host=listen.host, port=listen.port, background=self._background)


def _quota_store(url: str) -> "QuotaStore":
    # The client takes a seventh of a second to import, and most gateways have no store.
    from proserve_gateway.quotas.store import QuotaStore

    return QuotaStore(url)


def run_gateway(
    config: GatewayConfig,
    *,
    source: ConfigurationSource | None = None,
    on_started: Callable[[Gateway], None] | None = None,
) -> None:
    """Run a gateway until SIGTERM or SIGINT; a second signal ends it without waiting for open requests. `source`
    brings what follows the configuration that it starts with."""
    run_in_loop(serve(config, source=source, on_started=on_started))


def run_in_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on uvloop where there is one: 1.4 times the requests per second of asyncio's own loop."""
    # Requests leave almost no cycles behind, and what was imported stays: looking for garbage as often as Python does
    # by default costs a tenth of the CPU time of a request.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    take_descriptors()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


async def serve(
    config: GatewayConfig,
    *,
    source: ConfigurationSource | None = None,
    on_started: Callable[[Gateway], None] | None = None,
) -> None:
    """`run_gateway` inside a loop; takes over SIGTERM and SIGINT."""
    gateway = Gateway(config)
    await gateway.start()
    if source is not None:
        gateway.follow(source)
    if on_started is not None:
        on_started(gateway)
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await first.wait()
    finally:
        await _first_of(gateway.stop(), second.wait())
        if second.is_set():
            await gateway.stop(0.0)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _first_of(*awaitables: Coroutine[Any, Any, Any]) -> None:
    """Wait until one is done, cancel the others; raises what it raised."""
    tasks = [asyncio.create_task(each) for each in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    return uvloop.new_event_loop
