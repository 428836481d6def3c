"""Calls over gRPC that succeed, health, reflection, and the documented example."""

import asyncio
import re
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fake_openai_engine import fake_engine
from grpc_bench import KEY, PROMPT, Bench, running_bench
from proserve_core.routing import FleetView, RouteDecision, RoutingRequest
from proserve_core.routing.round_robin import RoundRobin
from proserve_gateway.background import Background
from proserve_gateway.grpc.api import SERVICE, GrpcApi
from proserve_gateway.grpc.server import GrpcServer
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.rpc import inference_pb2 as pb


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


@pytest.mark.parametrize(("deadline_s", "begun"), [(5, False), (60, True), (None, True)])
async def test_call_whose_deadline_is_long_before_its_first_token_is_not_begun(
    deadline_s: float | None, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_: object, _request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        return RouteDecision(engine=fleet.engines[0].name, reason="busy", expected_ttft_s=20.0)

    monkeypatch.setattr(RoundRobin, "choose", busy)
    async with fake_engine("a") as a, fake_engine("b") as b, running_bench(a, b) as bench:
        call = bench.stub.Generate(PROMPT, metadata=KEY, timeout=deadline_s)
        if begun:
            assert (await call).text
        else:
            with pytest.raises(grpc.aio.AioRpcError, match=r"first token is expected 20\.0 s after") as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(a.requests) + len(b.requests) == begun
        assert [engine.in_flight for engine in bench.fleet.status()] == [0, 0]


async def test_health_follows_readiness(bench: Bench) -> None:
    health: Any = health_pb2_grpc.HealthStub(bench.channel)
    for service in ("", SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    bench.ready = False
    assert (await asyncio.wait_for(watch.read(), 60)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


async def test_reflection_describes_the_service(bench: Bench) -> None:
    channel: Any = bench.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="", file_containing_symbol=SERVICE)
    (answer,) = [each async for each in stub.ServerReflectionInfo(iter([asked]))]
    assert answer.file_descriptor_response.file_descriptor_proto


async def test_port_in_use_is_named(bench: Bench) -> None:
    held = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    clock = asyncio.get_running_loop().time
    api = GrpcApi(intake=None, dispatcher=None, clock=clock)  # type: ignore[arg-type]
    with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
        await GrpcServer(api, background=Background(GatewayMetrics()), ready=lambda: True).start("127.0.0.1", port)
    held.close()


async def test_documented_python_works(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "grpc.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    code = code.replace("localhost:8001", bench.address).replace("sk-demo-interactive", "sk-acme")
    await asyncio.to_thread(exec, compile(code, "docs/grpc.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "abc"
    assert printed[1].startswith("UNAUTHENTICATED INVALID_API_KEY no API key was sent; ")
