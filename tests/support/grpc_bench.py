"""The gateway's gRPC front with real client, server and dispatch; only the engine is played."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from fake_openai_engine import FakeEngine
from proserve_core.objectives import PriorityClass, SecretKeyRef, ServiceObjectives, Tenant, TenantLimits
from proserve_core.pools import EnginePool, PoolModel
from proserve_core.resources import Resources, Secret
from proserve_core.routing import make_room
from proserve_gateway.background import Background
from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.grpc.api import GrpcApi
from proserve_gateway.grpc.limits import GrpcLimits
from proserve_gateway.grpc.server import GrpcServer
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.quotas.quotas import Quotas
from proserve_gateway.requests.body_budget import MOST_BYTES, BodyBudget
from proserve_gateway.requests.dispatch import Dispatcher
from proserve_gateway.requests.intake import Intake
from proserve_gateway.rpc import inference_pb2 as pb
from proserve_gateway.rpc.inference_pb2_grpc import InferenceStub
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.accounting_metrics import AccountingCollector
from proserve_gateway.seeing.decisions import Decisions
from proserve_gateway.upstream.client import UpstreamClient
from proserve_gateway.upstream.exchange import UpstreamLimits

KEY = (("authorization", "Bearer sk-acme"),)


HIGH = PriorityClass(name="high", weight=4, objectives=ServiceObjectives(ttft_s=5.0, tpot_s=1.0))


LOW = PriorityClass(name="low", weight=1, objectives=ServiceObjectives(ttft_s=5.0, tpot_s=1.0))


RESOURCES = Resources(
    priority_classes=(HIGH, LOW),
    tenants=(
        Tenant(
            name="acme",
            namespace="default",
            priority_class="high",
            api_keys=(SecretKeyRef(name="keys", key="acme"),),
        ),
        Tenant(
            name="small",
            namespace="default",
            priority_class="low",
            api_keys=(SecretKeyRef(name="keys", key="small"),),
            limits=TenantLimits(requests_per_minute=1),
        ),
    ),
    engine_pools=(EnginePool(name="chat", namespace="default", model=PoolModel(name="tiny")),),
    secrets=(Secret(name="keys", namespace="default", values={"acme": b"sk-acme", "small": b"sk-small"}),),
)


PROMPT = pb.GenerateRequest(model="tiny", prompt="Once", sampling=pb.Sampling(max_tokens=3))


def said(text: str, body: dict[str, Any], kind: str) -> dict[str, Any]:
    """What a choice holds: chat and completion differ."""
    return {kind: {"role": "assistant", "content": text}} if "messages" in body else {"text": text}


class PlayedEngine:
    """An OpenAI server of three tokens."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.refuse_with = 0
        self.hang_after: int | None = None
        """Tokens after which nothing comes any more."""
        self.break_after: int | None = None
        """Tokens after which the connection ends."""
        self.streams = True
        """Otherwise it sends whole answers, whatever it is asked for."""
        self.left = asyncio.Event()
        """The gateway gave a request up."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                self.paths.append(head.split()[1])
                self.bodies.append(json.loads(await reader.readexactly(size)))
                await self.answer(self.bodies[-1], reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    async def answer(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse_with:
            error = json.dumps({"error": {"message": "too long", "type": "BadRequestError", "code": 400}}).encode()
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (self.refuse_with, len(error), error))
        elif not body.get("stream") or not self.streams:
            if self.hang_after is not None:
                await self.wait_until_left(reader)
                return
            reply = {
                "choices": [said("a b c", body, "message") | {"finish_reason": "length"}],
                "usage": {"prompt_tokens": 4, "completion_tokens": 3},
            }
            data = json.dumps(reply).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data)
            )
        else:
            await self.stream(body, reader, writer)

    async def stream(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(3):
            if number == self.hang_after:
                await self.wait_until_left(reader)
                return
            if number == self.break_after:
                writer.close()
                return
            finish = "length" if number == 2 else None
            self.event(writer, {"choices": [said("abc"[number], body, "delta") | {"finish_reason": finish}]})
            await asyncio.sleep(0.01)
        self.event(writer, {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def event(self, writer: asyncio.StreamWriter, payload: dict[str, Any]) -> None:
        data = b"data: " + json.dumps(payload).encode() + b"\n\n"
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def wait_until_left(self, reader: asyncio.StreamReader) -> None:
        if not await reader.read(1):
            self.left.set()
            raise asyncio.IncompleteReadError(b"", None)


class Bench:
    engine: PlayedEngine
    fleet: Fleet
    accounting: Accounting
    metrics: GatewayMetrics
    decisions: Decisions
    address: str
    channel: grpc.aio.Channel
    stub: Any
    """Generated stubs carry no types."""
    ready = True
    later_s = 0.0
    """What the gateway's clock has gone on by, beside the time that passes."""

    def requests(self, code: str) -> float:
        total = 0.0
        for family in self.metrics.registry.collect():
            if family.name == "proserve_gateway_requests":
                total += sum(
                    sample.value
                    for sample in family.samples
                    if sample.name.endswith("_total") and sample.labels["code"] == code
                )
        return total


@asynccontextmanager
async def running_bench(
    *engines: FakeEngine,
    limits: UpstreamLimits | None = None,
    grpc_limits: GrpcLimits | None = None,
    body_bytes: int = MOST_BYTES,
) -> AsyncIterator[Bench]:
    """A gateway in front of these engines, which publish capacity; without any, of the played one, which does not.
    `body_bytes` are the most of all bodies."""
    made, loop = Bench(), asyncio.get_running_loop()

    def clock() -> float:
        return loop.time() + made.later_s

    made.engine = PlayedEngine()
    played = await asyncio.start_server(made.engine.serve, "127.0.0.1", 0)
    made.metrics = GatewayMetrics()
    made.accounting = Accounting(made.metrics)
    AccountingCollector(made.accounting, made.metrics)
    made.fleet = Fleet(make_room=lambda _: make_room("round-robin"), clock=clock)
    port = played.sockets[0].getsockname()[1]
    targets = [engine.target("chat") for engine in engines]
    made.fleet.set_targets(targets or [EngineTarget(name="chat-0", pool="chat", base_url=f"http://127.0.0.1:{port}")])
    for engine in made.fleet.engines:
        made.fleet.probe_answered(engine)
        engine.endpoint = engine.target.endpoint(has_capacity=bool(engines))
    made.decisions = Decisions(clock=clock)
    upstream = UpstreamClient(limits)
    api = GrpcApi(
        intake=Intake(
            catalog=Catalog.from_resources(RESOURCES), accounting=made.accounting, bodies=BodyBudget(body_bytes)
        ),
        dispatcher=Dispatcher(
            fleet=made.fleet,
            accounting=made.accounting,
            upstream=upstream,
            metrics=made.metrics,
            decisions=made.decisions,
            clock=clock,
            quotas=Quotas(wall_clock=lambda: 1_000_020.0),  # no minute ends inside a test
        ),
        clock=clock,
        limits=grpc_limits,
    )
    server = GrpcServer(
        api,
        background=Background(made.metrics),
        ready=lambda: made.ready,
        limits=grpc_limits or GrpcLimits(message_bytes=10_000),
    )
    bound = await server.start("127.0.0.1", 0)
    made.address = f"127.0.0.1:{bound}"
    async with grpc.aio.insecure_channel(made.address) as made.channel:
        made.stub = InferenceStub(made.channel)  # type: ignore[no-untyped-call]
        yield made
    await server.stop(0)
    upstream.close()
    played.close()
