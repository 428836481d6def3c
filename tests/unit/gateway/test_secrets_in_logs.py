"""Neither keys nor prompts nor answers get into logs, whatever goes wrong and however much is logged."""

import logging
from typing import Any

import grpc
import pytest

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import FREE_KEY, GOLD_KEY, gateway
from grpc_bench import Bench
from proserve_gateway.client import AsyncInferenceClient, InferenceError, request

PROMPT, ANSWER = "the-secret-prompt", "the-secret-answer"
ENGINE_KEY = "engine-key"
WRONG_KEY = "a-mistyped-key"


async def quoting(request: FakeRequest, reply: Reply) -> None:
    """An engine whose error quotes the prompt."""
    await reply.json(500, {"error": {"message": f"cannot compute {PROMPT}", "type": "x"}})


async def broken(request: FakeRequest, reply: Reply) -> None:
    """An engine whose stream turns into nonsense that quotes the answer."""
    await reply.start_stream()
    await reply.event({"choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": None}]})
    await reply.chunk(f"{ANSWER} is no event\n\n".encode())
    await reply.end()


async def reporting(request: FakeRequest, reply: Reply) -> None:
    """An engine that reports an error that quotes both."""
    await reply.start_stream()
    await reply.event({"choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": None}]})
    await reply.event({"error": {"message": f"{PROMPT} {ANSWER}", "code": 500}})
    await reply.end()


def clean(caplog: pytest.LogCaptureFixture) -> None:
    told = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    for secret in (PROMPT, ANSWER, GOLD_KEY, FREE_KEY, ENGINE_KEY, WRONG_KEY, "sk-acme"):
        assert secret not in told


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    # The test's own client is not what is looked at.
    for name in ("httpx", "httpcore", "hpack"):
        caplog.set_level(logging.WARNING, logger=name)


async def test_http_traffic_leaves_no_secrets_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}]}
    async with fake_engine() as engine, fake_engine("other") as other, gateway(engine, other) as gate:
        for behave in (None, quoting, broken, reporting):
            if behave is not None:
                engine.behave = other.behave = behave
            for stream in (False, True):
                await gate.chat(**asked, stream=stream)
        await gate.chat(**asked, key=WRONG_KEY)
        await gate.chat(**asked, key=FREE_KEY, model="huge", headers={"x-proserve-class": PROMPT})
        headers = {"authorization": f"Bearer {GOLD_KEY}"}
        for body in (f'{{"model": "tiny", "messages": [{PROMPT}', f'{{"model": "tiny", "{PROMPT}": 1, "messages": 5}}'):
            await gate.client.post("/v1/chat/completions", content=body, headers=headers)
        assert (await gate.client.get(f"/{PROMPT}", headers={"x-bad": "a\x01b"})).status_code == 400
        states = "".join(each.last_error for each in gate.fleet.status())
    assert "answered HTTP 500" in caplog.text
    assert PROMPT not in states
    assert ANSWER not in states
    clean(caplog)


async def test_grpc_traffic_leaves_no_secrets_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    asked = request(model="tiny", prompt=PROMPT)
    async with AsyncInferenceClient(bench.address, api_key="sk-acme") as client:
        assert (await client.generate(asked)).text
        bench.engine.refuse_with = 500
        with pytest.raises(InferenceError):
            await client.generate(asked)
    async with AsyncInferenceClient(bench.address, api_key=WRONG_KEY) as client:
        with pytest.raises(InferenceError) as caught:
            await client.generate(asked)
        assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    clean(caplog)
