"""Calls over gRPC: real client, real server, real dispatch; only the engine is played."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from proserve_core.objectives import PriorityClass, SecretKeyRef, ServiceObjectives, Tenant
from proserve_core.pools import EnginePool, PoolModel
from proserve_core.resources import Resources, Secret
from proserve_core.routing.registry import make_router
from proserve_gateway.accounting import Accounting
from proserve_gateway.accounting_metrics import AccountingCollector
from proserve_gateway.catalog import Catalog
from proserve_gateway.dispatch import Dispatcher
from proserve_gateway.fleet import Fleet
from proserve_gateway.fleet_target import EngineTarget
from proserve_gateway.grpc_api import SERVICE, GrpcApi
from proserve_gateway.grpc_server import GrpcLimits, GrpcServer
from proserve_gateway.intake import Intake
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.rpc import inference_pb2 as pb
from proserve_gateway.rpc.inference_pb2_grpc import InferenceStub
from proserve_gateway.upstream import UpstreamClient

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
    ),
    engine_pools=(EnginePool(name="chat", namespace="default", model=PoolModel(name="tiny")),),
    secrets=(Secret(name="keys", namespace="default", values={"acme": b"sk-acme"}),),
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
    address: str
    channel: grpc.aio.Channel
    stub: Any
    """Generated stubs carry no types."""
    ready = True

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


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = asyncio.get_running_loop().time
    made = Bench()
    made.engine = PlayedEngine()
    played = await asyncio.start_server(made.engine.serve, "127.0.0.1", 0)
    made.metrics = GatewayMetrics()
    made.accounting = Accounting(made.metrics)
    AccountingCollector(made.accounting, made.metrics)
    made.fleet = Fleet(make_router=lambda _: make_router("round-robin"), clock=clock)
    port = played.sockets[0].getsockname()[1]
    made.fleet.set_targets([EngineTarget(name="chat-0", pool="chat", base_url=f"http://127.0.0.1:{port}")])
    (engine,) = made.fleet.engines
    made.fleet.probe_answered(engine)
    upstream = UpstreamClient()
    api = GrpcApi(
        intake=Intake(catalog=Catalog.from_resources(RESOURCES), accounting=made.accounting),
        dispatcher=Dispatcher(fleet=made.fleet, accounting=made.accounting, upstream=upstream, clock=clock),
        clock=clock,
    )
    server = GrpcServer(api, ready=lambda: made.ready, limits=GrpcLimits(message_bytes=10_000))
    bound = await server.start("127.0.0.1", 0)
    made.address = f"127.0.0.1:{bound}"
    async with grpc.aio.insecure_channel(made.address) as made.channel:
        made.stub = InferenceStub(made.channel)  # type: ignore[no-untyped-call]
        yield made
    await server.stop(0)
    upstream.close()
    played.close()


async def end_of(call: Any, texts: list[str]) -> None:
    """Take a call to its end; text that comes before goes to `texts`."""
    if hasattr(call, "__aiter__"):
        async for chunk in call:
            texts.append(chunk.text)  # noqa: PERF401 - what came before an error counts
    else:
        texts.append((await call).text)


async def failure(call: Any, texts: list[str] | None = None) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await end_of(call, [] if texts is None else texts)
    return caught.value


def raw(bench: Bench, method: str) -> Any:
    """A method that sends bytes as they are."""
    return bench.channel.unary_unary(f"/{SERVICE}/{method}")


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return status


def reason(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert details(error).details[0].Unpack(info)
    assert info.domain == "proserve.dev"
    return str(info.reason)


async def test_unary_call_returns_the_whole_answer(bench: Bench) -> None:
    call = bench.stub.Generate(PROMPT, metadata=KEY)
    answer = await call
    assert (answer.text, answer.finish_reason) == ("a b c", "length")
    assert (answer.usage.prompt_tokens, answer.usage.output_tokens) == (4, 3)
    assert (answer.served.priority_class, answer.served.engine) == ("high", "chat-0")
    metadata = dict(await call.initial_metadata())
    assert metadata["x-proserve-request-id"] == answer.served.request_id
    assert bench.engine.paths == ["/v1/completions"]
    assert bench.engine.bodies == [{"model": "tiny", "prompt": "Once", "max_tokens": 3}]
    assert bench.accounting.ledger.by_class()["high"].earned == 12.0


async def test_stream_brings_text_as_it_comes(bench: Bench) -> None:
    chunks = [chunk async for chunk in bench.stub.GenerateStream(PROMPT, metadata=KEY)]
    assert "".join(chunk.text for chunk in chunks) == "abc"
    assert len(chunks) > 1
    assert sum(chunk.tokens for chunk in chunks) == 3
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]
    assert chunks[0].served.engine == "chat-0"
    assert not chunks[1].HasField("served")
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.output_tokens) == (4, 3)
    totals = bench.accounting.ledger.by_class()["high"]
    assert (totals.tokens, totals.tdg_ratio) == (3, 1.0)


async def test_stream_of_an_engine_that_does_not_stream_is_one_chunk(bench: Bench) -> None:
    bench.engine.streams = False
    (chunk,) = [chunk async for chunk in bench.stub.GenerateStream(PROMPT, metadata=KEY)]
    assert (chunk.text, chunk.finish_reason, chunk.tokens, chunk.usage.output_tokens) == ("a b c", "length", 3, 3)
    assert chunk.served.engine == "chat-0"


async def test_chat_goes_to_the_chat_route(bench: Bench) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="Hi")])
    await bench.stub.Generate(pb.GenerateRequest(model="tiny", chat=chat), metadata=KEY)
    assert bench.engine.paths == ["/v1/chat/completions"]


async def test_metadata_lowers_the_class(bench: Bench) -> None:
    answer = await bench.stub.Generate(PROMPT, metadata=(*KEY, ("x-proserve-class", "low")))
    assert answer.served.priority_class == "low"


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
@pytest.mark.parametrize(
    ("message", "metadata", "code", "expected_reason", "text"),
    [
        (PROMPT, (), "UNAUTHENTICATED", "INVALID_API_KEY", "no API key"),
        (PROMPT, (("authorization", "Bearer sk-x"),), "UNAUTHENTICATED", "INVALID_API_KEY", "not known"),
        (pb.GenerateRequest(model="gpt", prompt="x"), KEY, "NOT_FOUND", "MODEL_NOT_FOUND", "you can use: tiny"),
        (pb.GenerateRequest(prompt="x"), KEY, "INVALID_ARGUMENT", "MISSING_REQUIRED_PARAMETER", "model is missing"),
        (pb.GenerateRequest(model="tiny"), KEY, "INVALID_ARGUMENT", "MISSING_INPUT", "prompt, chat and token_ids"),
        (PROMPT, (*KEY, ("x-proserve-ttft-ms", "soon")), "INVALID_ARGUMENT", "INVALID_VALUE", "x-proserve-ttft-ms"),
        (PROMPT, (*KEY, ("x-proserve-class", "gold")), "INVALID_ARGUMENT", "INVALID_VALUE", "no class 'gold'"),
    ],
)
async def test_bad_input_is_a_clear_error(
    bench: Bench,
    method: str,
    message: pb.GenerateRequest,
    metadata: tuple[tuple[str, str], ...],
    code: str,
    expected_reason: str,
    text: str,
) -> None:
    error = await failure(getattr(bench.stub, method)(message, metadata=metadata))
    assert error.code().name == code
    assert text in (error.details() or "")
    assert reason(error) == expected_reason
    assert "x-proserve-request-id" in dict(error.trailing_metadata() or ())
    assert bench.engine.paths == []


async def test_field_at_fault_is_named_for_programs(bench: Bench) -> None:
    error = await failure(bench.stub.Generate(pb.GenerateRequest(model="gpt", prompt="x"), metadata=KEY))
    bad_request = error_details_pb2.BadRequest()
    assert details(error).details[1].Unpack(bad_request)
    assert [violation.field for violation in bad_request.field_violations] == ["model"]


async def test_bytes_that_are_no_message_are_refused(bench: Bench) -> None:
    error = await failure(raw(bench, "Generate")(b"\xff\xff", metadata=KEY))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "INVALID_MESSAGE"


async def test_oversized_message_is_refused(bench: Bench) -> None:
    error = await failure(bench.stub.Generate(pb.GenerateRequest(model="tiny", prompt="x" * 20_000), metadata=KEY))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_unknown_method_is_refused(bench: Bench) -> None:
    error = await failure(raw(bench, "Train")(b"", metadata=KEY))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_refusal_of_the_engine_reaches_the_client(bench: Bench) -> None:
    bench.engine.refuse_with = 400
    error = await failure(bench.stub.GenerateStream(PROMPT, metadata=KEY))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "too long" in (error.details() or "")


async def test_no_engine_says_when_to_try_again(bench: Bench) -> None:
    bench.fleet.set_targets([])
    error = await failure(bench.stub.Generate(PROMPT, metadata=KEY))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    retry = error_details_pb2.RetryInfo()
    assert details(error).details[-1].Unpack(retry)
    assert retry.retry_delay.seconds >= 1


async def test_stream_that_breaks_off_never_ends_well(bench: Bench) -> None:
    bench.engine.break_after = 2
    texts: list[str] = []
    error = await failure(bench.stub.GenerateStream(PROMPT, metadata=KEY), texts)
    assert "".join(texts) == "ab"
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(error) == "ENGINE_FAILURE"


async def test_cancelled_call_aborts_the_engines_work(bench: Bench) -> None:
    bench.engine.hang_after = 1
    call = bench.stub.GenerateStream(PROMPT, metadata=KEY)
    assert (await call.read()).text == "a"
    call.cancel()
    await asyncio.wait_for(bench.engine.left.wait(), 5)
    await settled(bench)
    assert bench.requests("499") == 1


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_deadline_of_the_call_ends_the_engines_work(bench: Bench, method: str) -> None:
    bench.engine.hang_after = 1
    error = await failure(getattr(bench.stub, method)(PROMPT, metadata=KEY, timeout=0.2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(bench.engine.left.wait(), 5)
    await settled(bench)
    assert bench.requests("499") == 1


async def settled(bench: Bench) -> None:
    async with asyncio.timeout(5):
        while bench.fleet.status()[0].in_flight:  # noqa: ASYNC110 - what is awaited is seen from outside
            await asyncio.sleep(0.002)


async def test_health_follows_readiness(bench: Bench) -> None:
    health: Any = health_pb2_grpc.HealthStub(bench.channel)
    for service in ("", SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    bench.ready = False
    assert (await asyncio.wait_for(watch.read(), 5)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


async def test_reflection_describes_the_service(bench: Bench) -> None:
    channel: Any = bench.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="", file_containing_symbol=SERVICE)
    async for answer in stub.ServerReflectionInfo(iter([asked])):
        assert answer.file_descriptor_response.file_descriptor_proto


async def test_port_in_use_is_named(bench: Bench) -> None:
    held = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    clock = asyncio.get_running_loop().time
    api = GrpcApi(intake=None, dispatcher=None, clock=clock)  # type: ignore[arg-type]
    with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
        await GrpcServer(api, ready=lambda: True).start("127.0.0.1", port)
    held.close()


async def test_documented_python_works(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "grpc.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    code = code.replace("localhost:8001", bench.address).replace("sk-demo-interactive", "sk-acme")
    await asyncio.to_thread(exec, compile(code, "docs/grpc.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "abc"
    assert printed[1].startswith("UNAUTHENTICATED INVALID_API_KEY no API key was sent; ")
