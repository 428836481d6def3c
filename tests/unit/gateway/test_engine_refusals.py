"""What an engine's error becomes for the client, over HTTP and gRPC: also when a proxy wrote it, or nobody sane."""

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from fake_openai_engine import Behaviour, FakeRequest, Reply, fake_engine
from gateway_builders import GOLD_KEY, gateway
from grpc_bench import KEY, PROMPT, running_bench

A_DAY_S = 86400


def refusing(status: int, body: bytes = b'{"error":{"message":"no"}}', headers: str = "") -> Behaviour:
    async def behave(request: FakeRequest, reply: Reply) -> None:
        await reply.whole(status, body, headers)

    return behave


async def test_engine_without_the_model_gets_nothing_where_another_has_it() -> None:
    async with fake_engine("a") as lacks, fake_engine("b") as has, gateway(lacks, has) as gate:
        lacks.behave = refusing(404, b'{"error":{"message":"no model tiny","code":"model_not_found"}}')
        statuses = [(await gate.chat()).status_code for _ in range(12)]
        states = {row.name: (row.state, row.last_error) for row in gate.fleet.status()}
    assert statuses == [200] * 12
    assert states["a"] == ("circuit_open", "engine a answered HTTP 404")
    assert states["b"][0] == "ready"
    assert gate.sample("engine_failures_total", pool="tiny", reason="model_missing") == len(lacks.requests) == 3


async def test_client_is_told_what_no_engine_has() -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b) as gate:
        a.behave = b.behave = refusing(404, b'{"error":{"message":"no model tiny","code":"model_not_found"}}')
        for _ in range(5):
            reply = await gate.chat()
            assert (reply.status_code, reply.json()["error"]["message"]) == (404, "no model tiny")
        assert {row.state for row in gate.fleet.status()} == {"ready"}
        assert gate.sample("engine_failures_total", pool="tiny", reason="model_missing") == 0


async def test_route_that_only_some_engines_have_is_found_and_nobody_is_blamed() -> None:
    """A tenant that embeds must not take from others an engine that serves chats."""

    async def without_embeddings(request: FakeRequest, reply: Reply) -> None:
        if request.path == "/v1/embeddings":
            await reply.json(404, {"detail": "Not Found"})
        else:
            await answering(request, reply)

    async with fake_engine("a") as lacks, fake_engine("b") as has, gateway(lacks, has) as gate:
        answering, lacks.behave = lacks.behave, without_embeddings
        body = {"model": "tiny", "input": "hi"}
        for _ in range(12):
            reply = await gate.client.post("/v1/embeddings", json=body, headers={"authorization": f"Bearer {GOLD_KEY}"})
            assert reply.status_code == 200
        assert {row.state for row in gate.fleet.status()} == {"ready"}
        assert gate.sample("engine_failures_total", pool="tiny", reason="model_missing") == 0
        assert len(lacks.requests) == 6


async def refused_over_grpc(behave: Behaviour, *, stream: bool = False) -> grpc.aio.AioRpcError:
    async with fake_engine() as engine, running_bench(engine) as bench:
        engine.behave = behave
        call = bench.stub.GenerateStream(PROMPT, metadata=KEY).read if stream else None
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (bench.stub.Generate(PROMPT, metadata=KEY) if call is None else call())
        return caught.value


def retry_after_s(error: grpc.aio.AioRpcError) -> int:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[-1].Unpack(retry)
    return int(retry.retry_delay.seconds)


@pytest.mark.parametrize("stream", [True, False])
async def test_error_that_is_not_utf8_reaches_the_client_with_its_status(stream: bool) -> None:
    behave = refusing(400, '{"error":{"message":"caf\xe9 is too long","code":"too_long"}}'.encode("latin-1"))
    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = behave
        reply = await gate.chat(stream=stream)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "too_long"
        assert reply.json()["error"]["message"] == "caf\ufffd is too long"
    error = await refused_over_grpc(behave, stream=stream)
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "caf\ufffd is too long")


@pytest.mark.parametrize("status", [444, 460, 494, 499])
async def test_status_that_only_a_proxy_knows_is_a_bad_request(status: int) -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = refusing(status)
        assert (await gate.chat()).status_code == 400
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="400") == 1
    assert (await refused_over_grpc(refusing(status))).code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("said", "told_s"), [("7", 7), ("9" * 400, A_DAY_S)])
async def test_client_is_told_when_the_engine_wants_to_be_asked_again(status: int, said: str, told_s: int) -> None:
    behave = refusing(status, headers=f"retry-after: {said}\r\n")
    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = behave
        reply = await gate.chat()
        assert (reply.status_code, reply.headers["retry-after"]) == (status, str(told_s))
    assert retry_after_s(await refused_over_grpc(behave)) == told_s
