"""The Responses API: passed through event by event, judged token by token, never cut in silence."""

import json
from typing import Any

import openai
import pytest

from fake_openai_engine import FakeEngine, FakeRequest, Reply, fake_engine
from gateway_builders import GOLD_KEY, Gateway, gateway
from openai_replies import AUTH
from proserve_gateway.errors import ApiError
from proserve_gateway.requests.body import BodyKind, parse_body

USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 10,
}


def response(status: str, text: str = "", usage: object = None) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [content]}
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "tiny", "status": status,
        "output": [item] if text else [], "usage": usage, "parallel_tool_calls": True, "tool_choice": "auto",
        "tools": [], "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
    }  # fmt: skip


def events(*, end: str = "response.completed") -> list[dict[str, Any]]:
    deltas = [
        {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0,
         "delta": f"t{number} ", "logprobs": []}
        for number in range(3)
    ]  # fmt: skip
    last = {"type": end, "response": response(end.removeprefix("response."), "t0 t1 t2 ", USAGE)}
    every: list[dict[str, Any]] = [{"type": "response.created", "response": response("in_progress")}, *deltas, last]
    return [each | {"sequence_number": number} for number, each in enumerate(every)]


class Responder:
    """An engine that has the Responses API; `cut` events are sent of a stream."""

    def __init__(self, *, cut: int | None = None, end: str = "response.completed") -> None:
        self.cut = cut
        self.end = end
        self.sent = b""

    async def __call__(self, request: FakeRequest, reply: Reply) -> None:
        assert request.path == "/v1/responses"
        if not request.body.get("stream"):
            await reply.json(200, response("completed", "t0 t1 t2 ", USAGE))
            return
        await reply.start_stream()
        for event in events(end=self.end)[: self.cut]:
            data = f"event: {event['type']}\ndata: {openai_json(event)}\n\n".encode()
            self.sent += data
            await reply.chunk(data)
        if self.cut is not None:
            reply.hang_up()
        else:
            await reply.end()


def openai_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


async def ask(gate: Gateway, **fields: object) -> Any:
    return await gate.client.post("/v1/responses", json={"model": "tiny", "input": "hi", **fields}, headers=AUTH)


def client_of(gate: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=GOLD_KEY, max_retries=0)


async def test_openai_client_gets_whole_and_streamed_responses() -> None:
    async with fake_engine() as engine, gateway(engine) as gate, client_of(gate) as client:
        engine.behave = Responder()
        whole = await client.responses.create(model="tiny", input="hi", max_output_tokens=3)
        assert whole.output_text == "t0 t1 t2 "
        seen = [event async for event in await client.responses.create(model="tiny", input="hi", stream=True)]
        assert [event.type for event in seen] == [each["type"] for each in events()]
        assert gate.sample("output_tokens_total", cls="high", tenant="gold", model="tiny") == 6
        assert gate.sample("prompt_tokens_total", cls="high", tenant="gold", model="tiny") == 14
        assert gate.accounting.ledger.total().slo_attainment == 1


async def test_stream_passes_byte_by_byte_and_the_engine_gets_the_class_facts() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = responder = Responder(end="response.incomplete")
        reply = await ask(gate, stream=True, store=False, instructions="be brief", priority=-5, request_id="mine")
        assert reply.content == responder.sent
        body = engine.requests[0].body
        assert body["vllm_xargs"]["proserve_class"] == "high"
        assert (body["instructions"], body["store"]) == ("be brief", False)
        assert not body.keys() & {"priority", "request_id", "stream_options", "return_token_ids"}


@pytest.mark.parametrize("cut", [2, 4])
async def test_stream_that_breaks_ends_with_an_error_event(cut: int) -> None:
    async with fake_engine() as engine, fake_engine("other") as other, gateway(engine, other) as gate:
        engine.behave = other.behave = responder = Responder(cut=cut)
        reply = await ask(gate, stream=True)
        assert reply.content.startswith(responder.sent)
        rest = reply.content[len(responder.sent) :].decode()
        assert rest.startswith('event: error\ndata: {"type":"error","code":"engine_failure",')
        assert f'"sequence_number":{cut}' in rest
        assert f'"completion_tokens":{cut - 1}' in rest
        assert len(engine.requests) + len(other.requests) == 1
        async with client_of(gate) as client:
            with pytest.raises(openai.APIError, match="try again"):
                async for _ in await client.responses.create(model="tiny", input="hi", stream=True):
                    pass


async def test_engine_that_fails_a_response_before_its_first_token_is_replaced() -> None:
    async def failing(request: FakeRequest, reply: Reply) -> None:
        await reply.json(200, response("failed"))

    async with fake_engine() as engine, fake_engine("other") as other, gateway(engine, other) as gate:
        engine.behave, other.behave = failing, Responder()
        for _ in range(2):
            assert (await ask(gate)).json()["status"] == "completed"


async def test_engine_without_the_api_says_so() -> None:
    async def missing(request: FakeRequest, reply: Reply) -> None:
        await reply.json(404, {"detail": "Not Found"})

    engine: FakeEngine
    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = missing
        assert (await ask(gate)).status_code == 404


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "input", "input is missing"),
        ({"input": 5}, "input", "wrong type"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id", "no responses are kept here"),
        ({"input": "x", "background": True}, "background", "send the whole conversation in `input`"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens", "it must be from 1 to"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_field(body: dict[str, object], param: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        parse_body(BodyKind.RESPONSES, openai_json({"model": "tiny", **body}).encode())
    assert caught.value.param == param


async def test_kept_responses_do_not_exist() -> None:
    async with gateway() as gate:
        reply = await gate.client.get("/v1/responses/resp_1", headers=AUTH)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_url")
        assert "no responses are kept here" in reply.json()["error"]["message"]
