"""A gateway's data path on loopback in front of fake engines, with simulated time for judging if wanted."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from fake_openai_engine import FakeEngine
from proserve_core.objectives import Overload, PriorityClass, SecretKeyRef, ServiceObjectives, Tenant, TenantLimits
from proserve_core.pools import EnginePool, PoolModel
from proserve_core.resources import Resources, Secret
from proserve_core.routing import ImmediateRoom, RoutingPolicy, WaitingRoom
from proserve_core.routing.round_robin import RoundRobin
from proserve_gateway.background import Background
from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.metrics import FleetCollector
from proserve_gateway.fleet.queue_metrics import QueueMetrics
from proserve_gateway.fleet.room_shares import WaitingLimits
from proserve_gateway.http.api import HttpApi, HttpLimits
from proserve_gateway.http.data_server import DataServer
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.quotas.metrics import QuotaCollector
from proserve_gateway.quotas.quotas import Quotas
from proserve_gateway.requests.body_budget import MOST_BYTES, BodyBudget
from proserve_gateway.requests.dispatch import Dispatcher
from proserve_gateway.requests.intake import Intake
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.accounting_metrics import AccountingCollector
from proserve_gateway.seeing.decisions import Decisions
from proserve_gateway.upstream.client import UpstreamClient
from proserve_gateway.upstream.exchange import UpstreamLimits

GOLD_KEY = "gold-key"
FREE_KEY = "free-key"


def catalog(
    *, anonymous: bool = False, limits: TenantLimits | None = None, overload: Overload | None = None
) -> Catalog:
    """Classes high (with `overload`) and low; tenants gold (high, with `limits`) and free (low); one model, tiny."""
    return Catalog.from_resources(
        Resources(
            priority_classes=(
                PriorityClass(
                    name="high",
                    weight=4,
                    objectives=ServiceObjectives(ttft_s=0.5, tpot_s=0.04),
                    overload=overload or Overload(),
                ),
                PriorityClass(name="low", weight=1, objectives=ServiceObjectives(ttft_s=5.0, tpot_s=1.0)),
            ),
            tenants=(
                Tenant(
                    name="gold",
                    namespace="default",
                    priority_class="high",
                    api_keys=(_key("gold"),),
                    limits=limits or TenantLimits(),
                ),
                Tenant(name="free", namespace="default", priority_class="low", api_keys=(_key("free"),)),
                *([Tenant(name="anybody", namespace="default", priority_class="low", anonymous=True)] * anonymous),
            ),
            engine_pools=(EnginePool(name="tiny", namespace="default", model=PoolModel(name="tiny")),),
            secrets=(
                Secret(name="keys", namespace="default", values={"gold": GOLD_KEY.encode(), "free": FREE_KEY.encode()}),
            ),
        )
    )


def _key(entry: str) -> SecretKeyRef:
    return SecretKeyRef(name="keys", key=entry)


class Gateway:
    """A running data path and its books."""

    def __init__(
        self,
        *,
        server: DataServer,
        fleet: Fleet,
        accounting: Accounting,
        metrics: GatewayMetrics,
        upstream: UpstreamClient,
        decisions: Decisions,
    ) -> None:
        self.server = server
        self.decisions = decisions
        self.upstream = upstream
        self.fleet = fleet
        self.accounting = accounting
        self.metrics = metrics
        self.url = f"http://127.0.0.1:{server.port}"
        self.client: httpx.AsyncClient

    async def chat(self, *, key: str | None = GOLD_KEY, headers: dict[str, str] | None = None, **fields: Any) -> Any:
        """Ask for a chat completion; `fields` go into the body."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.client.post("/v1/chat/completions", json=body, headers=_headers(key, headers))

    async def tokens(self, count: int) -> None:
        """Wait until so many tokens have passed, over all engines and requests in flight."""
        async with asyncio.timeout(60):
            while sum(each.emitted_tokens for e in self.fleet.engines for each in e.view.dispatched.values()) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    def sample(self, name: str, **labels: str) -> float:
        """Value of a metric; 0 before it was touched. `cls` stands for the label `class`."""
        if "cls" in labels:
            labels["class"] = labels.pop("cls")
        return self.metrics.registry.get_sample_value(f"proserve_gateway_{name}", labels) or 0.0


def _headers(key: str | None, more: dict[str, str] | None = None) -> dict[str, str]:
    return {**({} if key is None else {"authorization": f"Bearer {key}"}), **(more or {})}


@contextlib.asynccontextmanager
async def gateway(
    *engines: FakeEngine,
    ours: bool = True,
    is_vllm: bool = False,
    anonymous: bool = False,
    limits: HttpLimits | None = None,
    upstream: UpstreamLimits | None = None,
    clock: Callable[[], float] = time.monotonic,
    stall_ms: int = 60_000,
    head_s: float = 60.0,
    most_connections: int | None = None,
    router: Callable[[], RoutingPolicy] = RoundRobin,
    room: WaitingRoom | None = None,
    tenant_limits: TenantLimits | None = None,
    quotas: Quotas | None = None,
    overload: Overload | None = None,
    waiting_limits: WaitingLimits | None = None,
    body_bytes: int = MOST_BYTES,
) -> AsyncIterator[Gateway]:
    """A gateway in front of `engines`; `ours` publish capacity, others may be stock vLLM; gold has `tenant_limits` and
    its class `overload`.

    With a `room` instead of a `router` requests may wait. `body_bytes` are the most of all bodies.
    """
    metrics = GatewayMetrics()
    accounting = Accounting(metrics)
    AccountingCollector(accounting, metrics)
    made = ImmediateRoom(router()) if room is None else room
    fleet = Fleet(
        make_room=lambda _: made, clock=clock, queue_metrics=QueueMetrics(metrics), waiting_limits=waiting_limits
    )
    FleetCollector(fleet, metrics)
    fleet.set_targets([engine.target() for engine in engines])
    for known in fleet.engines:
        fleet.probe_answered(known, is_vllm=is_vllm)
        if ours:
            known.endpoint = known.target.endpoint(has_capacity=True)
    client = UpstreamClient(upstream)
    decisions = Decisions(clock=clock)
    quotas = quotas or Quotas(wall_clock=lambda: 1_000_020.0)  # no minute ends inside a test
    QuotaCollector(quotas, metrics)
    dispatcher = Dispatcher(
        fleet=fleet,
        accounting=accounting,
        upstream=client,
        metrics=metrics,
        decisions=decisions,
        clock=clock,
        quotas=quotas,
    )
    intake = Intake(
        catalog=catalog(anonymous=anonymous, limits=tenant_limits, overload=overload),
        accounting=accounting,
        bodies=BodyBudget(body_bytes),
    )
    api = HttpApi(intake=intake, dispatcher=dispatcher, clock=clock, limits=limits)
    server = DataServer(
        api,
        host="127.0.0.1",
        port=0,
        background=Background(metrics),
        stall_ms=stall_ms,
        head_s=head_s,
        most_connections=most_connections,
    )
    await server.start()
    running = Gateway(
        server=server, fleet=fleet, accounting=accounting, metrics=metrics, upstream=client, decisions=decisions
    )
    try:
        async with httpx.AsyncClient(base_url=running.url, timeout=60, verify=False) as running.client:
            yield running
    finally:
        server.close()
        await server.wait_closed(0.0)
        client.close()
