"""Bodies of calls over gRPC are freed as soon as their calls have ended, however they end (see test_http_memory)."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import grpc
import grpc.aio
import pytest

from fake_openai_engine import Behaviour, FakeRequest, Reply, fake_engine
from faults import be_busy, refuse, report_an_error, saying
from grpc_bench import KEY, Bench, running_bench
from proserve_gateway.fleet.health import EngineHealth
from proserve_gateway.requests import intake
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.rpc import inference_pb2 as pb

CALLS = 5


class Watched(InferenceRequest):
    """Can be referred to without being kept."""

    __slots__ = ("__weakref__",)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator["WeakSet[InferenceRequest]"]:
    """Those that still exist of all that were accepted; each holds its body. The garbage collector is off."""
    alive: WeakSet[InferenceRequest] = WeakSet()

    def watched(**fields: Any) -> InferenceRequest:
        request = Watched(**fields)
        alive.add(request)
        return request

    monkeypatch.setattr(intake, "InferenceRequest", watched)
    gc.disable()
    yield alive
    gc.enable()


async def break_off(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.event({"choices": [{"index": 0, "text": "t"}]})
    await reply.event({"error": {"message": "bad", "code": 500}})
    await reply.end()


async def hang(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.event({"choices": [{"index": 0, "text": "t"}]})
    await asyncio.sleep(60)


async def call(bench: Bench, *, streams: bool, leaves: bool) -> None:
    """One call to its end, or until the client leaves with the first of a stream."""
    message = pb.GenerateRequest(model="tiny", prompt="q" * 8000)
    try:
        if streams:
            stream = bench.stub.GenerateStream(message, metadata=KEY)
            async for _ in stream:
                if leaves:
                    stream.cancel()
                    break
        else:
            await bench.stub.Generate(message, metadata=KEY)
    except grpc.aio.AioRpcError:
        for known in bench.fleet.engines:
            known.health = EngineHealth()


@pytest.mark.parametrize(
    ("behave", "streams"),
    [
        (None, False), (None, True), (refuse, False), (refuse, True), (be_busy, True), (report_an_error, True),
        (break_off, True), (hang, True), (saying(b"HTTP/1.1 nonsense\r\n\r\n"), True),
    ],
)  # fmt: skip
async def test_body_is_freed_with_its_call(
    behave: Behaviour | None, streams: bool, requests: "WeakSet[InferenceRequest]"
) -> None:
    async with fake_engine() as engine, running_bench(engine) as bench:
        if behave is not None:
            engine.behave = behave
        for _ in range(CALLS):
            await call(bench, streams=streams, leaves=behave is hang)
        # A call is over for its client a moment before it is for its server.
        for _ in range(500):
            if not requests:
                break
            await asyncio.sleep(0.02)
        assert len(requests) == 0
        assert len(engine.requests) >= CALLS
