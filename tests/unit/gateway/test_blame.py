"""Who is to blame for an error that an engine answers with: the engine if another one serves the request, else the
request, so that one tenant's requests can't take the engines of all others away."""

import asyncio
from typing import Any

import pytest

from fake_openai_engine import FakeEngine, FakeRequest, Reply, fake_engine
from gateway_builders import FREE_KEY, Gateway, gateway
from proserve_gateway.fleet.health import FAILURES_TO_OPEN, EngineState
from proserve_gateway.upstream.exchange import FailureKind, UpstreamLimits


async def answer_500(request: FakeRequest, reply: Reply) -> None:
    await reply.json(500, {"error": {"message": "assertion failed", "type": "x", "code": 500}})


async def answer_503(request: FakeRequest, reply: Reply) -> None:
    await reply.json(503, {"error": {"message": "overloaded", "type": "x", "code": 503}})


async def refuse_our_key(request: FakeRequest, reply: Reply) -> None:
    await reply.json(401, {"error": {"message": "no such key", "type": "x", "code": 401}})


async def stream_nothing(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.end()


async def error_event_after_a_token(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.event({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]})
    await reply.event({"error": {"message": "grammar failed", "type": "InternalServerError", "code": 500}})
    await reply.end()


def failing_for(bad: Any, engine: FakeEngine) -> Any:
    """Fails as `bad` does for requests with a seed of 13."""

    async def answer(request: FakeRequest, reply: Reply) -> None:
        await (bad if request.body.get("seed") == 13 else engine.generate)(request, reply)

    return answer


def states(gate: Gateway) -> set[EngineState]:
    return {engine.state for engine in gate.fleet.status()}


@pytest.mark.parametrize("failure", [answer_500, stream_nothing, error_event_after_a_token])
@pytest.mark.parametrize("engines", [1, 2])
async def test_requests_that_no_engine_can_serve_close_the_pool_to_nobody(failure: Any, engines: int) -> None:
    async with fake_engine("a") as a, fake_engine("b") as b:
        used = (a, b)[:engines]
        async with gateway(*used) as gate:
            for engine in used:
                engine.behave = failing_for(failure, engine)
            for _ in range(2 * FAILURES_TO_OPEN):
                bad = await gate.chat(seed=13, stream=True, key=FREE_KEY)
                assert bad.status_code == (200 if failure is error_event_after_a_token else 502)
                assert "error" in bad.text
            assert states(gate) == {EngineState.READY}
            assert (await gate.chat()).status_code == 200


@pytest.mark.parametrize("failure", [answer_500, answer_503, refuse_our_key, stream_nothing])
async def test_engine_that_fails_what_another_one_serves_gets_no_more_work(failure: Any) -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b) as gate:
        a.behave = failure
        for _ in range(2 * FAILURES_TO_OPEN):
            assert (await gate.chat(stream=True)).status_code == 200
        assert {engine.name: engine.state for engine in gate.fleet.status()} == {
            "a": EngineState.CIRCUIT_OPEN,
            "b": EngineState.READY,
        }
        assert len(a.requests) == FAILURES_TO_OPEN


async def test_time_that_the_gateway_itself_ends_is_no_failure_of_the_engine() -> None:
    async def hang(request: FakeRequest, reply: Reply) -> None:
        await asyncio.Event().wait()

    async with fake_engine("a") as a, gateway(a, upstream=UpstreamLimits(total_s=0.05)) as gate:
        a.behave = hang
        assert (await gate.chat()).json()["error"]["code"] == "request_total_timeout"
        assert gate.sample("engine_failures_total", pool="tiny", reason=FailureKind.TOTAL_TIMEOUT) == 0
        assert states(gate) == {EngineState.READY}
