"""The data path end to end on loopback: a real HTTP server, a real upstream client, fake engines."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import FREE_KEY, GOLD_KEY, Gateway, gateway
from proserve_gateway.http_api import HttpLimits
from proserve_gateway.request_body import RequestBody
from proserve_gateway.upstream_connection import UpstreamLimits

AUTH = {"authorization": f"Bearer {GOLD_KEY}"}


def events(text: str) -> list[Any]:
    """Decoded events of a stream, `[DONE]` as it is."""
    data = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def text_of(chunks: list[Any]) -> str:
    return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c != "[DONE]" and c.get("choices"))


# Answers


async def test_stream_passes_through_and_every_token_is_judged() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        reply = await gate.chat(stream=True, max_tokens=6)
        chunks = events(reply.text)
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert text_of(chunks) == "t0 t1 t2 t3 t4 t5 "
        assert chunks[-1] == "[DONE]"
        assert gate.sample("output_tokens_total", cls="high", tenant="gold", model="tiny") == 6
        assert gate.sample("gain_earned_total", cls="high", tenant="gold") == 6 * 4
        assert gate.sample("prompt_tokens_total", cls="high", tenant="gold", model="tiny") == 7


async def test_whole_reply_passes_through_and_is_judged_when_it_is_here() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        reply = await gate.chat(max_tokens=3)
        assert reply.json()["choices"][0]["message"]["content"] == "t0 t1 t2 "
        assert gate.sample("output_tokens_total", cls="high", tenant="gold", model="tiny") == 3
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="200") == 1


async def test_reply_names_request_class_engine_and_overhead() -> None:
    async with fake_engine("engine-7") as engine, gateway(engine) as gate:
        reply = await gate.chat(headers={"x-request-id": "mine"})
        assert reply.headers["x-proserve-class"] == "high"
        assert reply.headers["x-proserve-engine"] == "engine-7"
        assert 0 < float(reply.headers["x-proserve-overhead-ms"]) < 1000
        assert reply.headers["x-request-id"] == "mine"
        assert reply.headers["x-proserve-request-id"] == engine.requests[0].headers["x-request-id"] != "mine"


async def test_openai_client_works_unmodified() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        client = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=GOLD_KEY)
        async with client:
            assert [model.id async for model in client.models.list()] == ["tiny"]
            whole = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=2
            )
            assert whole.choices[0].message.content == "t0 t1 "
            stream = await client.completions.create(model="tiny", prompt="hi", max_tokens=3, stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == "t0 t1 t2 "
            with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
                await client.chat.completions.create(model="huge", messages=[])
            assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("options", "on_chunks", "at_end"),
    [
        (None, False, False),
        ({"include_usage": True}, False, True),
        ({"include_usage": True, "continuous_usage_stats": True}, True, True),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
async def test_client_sees_usage_exactly_where_it_asked_for_it(
    options: dict[str, bool] | None, on_chunks: bool, at_end: bool, ours: bool
) -> None:
    async with fake_engine() as engine, gateway(engine, ours=ours) as gate:
        more: dict[str, Any] = {} if options is None else {"stream_options": options}
        chunks = events((await gate.chat(stream=True, max_tokens=3, **more)).text)[:-1]
        with_choices = [chunk for chunk in chunks if chunk["choices"]]
        assert [bool(chunk.get("usage")) for chunk in with_choices] == [on_chunks] * 4
        final = [chunk["usage"]["completion_tokens"] for chunk in chunks if not chunk["choices"]]
        assert final == ([3] if at_end else [])
        assert gate.sample("output_tokens_total", cls="high", tenant="gold", model="tiny") == 3


async def test_embeddings_pass_through_without_class_facts() -> None:
    async def embed(request: FakeRequest, reply: Reply) -> None:
        await reply.json(200, {"object": "list", "data": [], "usage": {"prompt_tokens": 2, "total_tokens": 2}})

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = embed
        body = {"model": "tiny", "input": "x"}
        forged = {**body, "vllm_xargs": {"proserve_weight": 1e6}}
        reply = await gate.client.post("/v1/embeddings", json=forged, headers=AUTH)
        assert reply.json()["object"] == "list"
        assert engine.requests[0].path == "/v1/embeddings"
        assert engine.requests[0].body == body
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="200") == 1
        assert gate.accounting.ledger.total().requests == 0


# What the engine is told


async def test_engine_of_ours_gets_class_facts_and_is_asked_for_exact_usage() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        await gate.chat(stream=True, temperature=0.5, unheard_of={"a": 1})
        body = engine.requests[0].body
        facts = body["vllm_xargs"]
        assert 0 <= facts.pop("proserve_age_ms") < 1000
        assert facts == {
            "proserve_client": "gold",
            "proserve_class": "high",
            "proserve_weight": 4.0,
            "proserve_first_gain": 1.0,
            "proserve_token_gain": 1.0,
            "proserve_ttft_ms": 500.0,
            "proserve_tpot_ms": 40.0,
        }
        assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
        assert (body["temperature"], body["unheard_of"]) == (0.5, {"a": 1})


async def test_foreign_engine_is_told_nothing_it_may_not_know() -> None:
    async with fake_engine() as engine, gateway(engine, ours=False) as gate:
        await gate.chat(stream=True)
        assert "vllm_xargs" not in engine.requests[0].body
        assert engine.requests[0].body["stream_options"] == {"include_usage": True}


async def test_forged_control_fields_and_headers_do_not_reach_the_engine() -> None:
    forged = {"proserve_weight": 1e6, "proserve_class": "vip", "kv_transfer_params": "x", "mine": 5}
    async with fake_engine() as engine, gateway(engine) as gate:
        reply = await gate.chat(
            key=FREE_KEY,
            vllm_xargs=forged,
            priority=-100,
            kv_transfer_params={"remote_host": "10.0.0.1"},
            ec_transfer_params={"remote_host": "10.0.0.1"},
            headers={"x-vllm-priority": "-100", "x-forwarded-for": "1.2.3.4"},
        )
        assert reply.headers["x-proserve-class"] == "low"
        sent = engine.requests[0]
        assert sent.body["vllm_xargs"]["proserve_weight"] == 1.0
        assert sent.body["vllm_xargs"]["proserve_class"] == "low"
        assert sent.body["vllm_xargs"]["mine"] == 5
        assert "kv_transfer_params" not in sent.body["vllm_xargs"]
        assert not {"priority", "kv_transfer_params", "ec_transfer_params"} & sent.body.keys()
        assert not {"x-vllm-priority", "x-forwarded-for"} & sent.headers.keys()
        assert sent.headers["authorization"] == "Bearer engine-key"


async def test_field_that_occurs_twice_reaches_the_engine_once() -> None:
    raw = (
        b'{"model":"tiny","messages":[],"vllm_xargs":{"proserve_weight":9},'
        b'"vllm_xargs":{"proserve_weight":7,"prose\\u0072ve_class":"vip"}}'
    )
    async with fake_engine() as engine, gateway(engine) as gate:
        await gate.client.post("/v1/chat/completions", content=raw, headers=AUTH)
        assert engine.requests[0].raw.count(b"vllm_xargs") == 1
        assert engine.requests[0].body["vllm_xargs"]["proserve_weight"] == 4.0
        assert b"vip" not in engine.requests[0].raw


# Refusals


async def refused(gate: Gateway, status: int, **error: Any) -> str:
    """Post a body given as `content` or `fields`; checks the error object, returns its message."""
    content, fields = error.pop("content", None), error.pop("fields", None)
    key, path = error.pop("key", GOLD_KEY), error.pop("path", "/v1/chat/completions")
    sent = json.dumps(fields).encode() if content is None else content
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    reply = await gate.client.post(path, content=sent, headers=headers)
    assert reply.status_code == status, reply.text
    found = reply.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert {name: found[name] for name in error} == error
    assert reply.headers["x-proserve-request-id"]
    return str(found["message"])


async def test_keys_are_required_and_checked() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        fields = {"model": "tiny", "messages": []}
        await refused(gate, 401, fields=fields, key="wrong", code="invalid_api_key")
        await refused(gate, 401, fields=fields, key=None, code="invalid_api_key")
        assert not engine.requests
        assert gate.sample("requests_total", cls="other", tenant="other", model="other", code="401") == 2


async def test_missing_key_is_the_anonymous_tenant_where_there_is_one() -> None:
    async with fake_engine() as engine, gateway(engine, anonymous=True) as gate:
        assert (await gate.chat(key=None)).headers["x-proserve-class"] == "low"
        assert (await gate.chat(key="wrong")).status_code == 401


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"model": "tiny",\n "messages": [}', "byte 32 (line 2, column 15)"),
        (b"", "it is empty"),
        (b'{"model": "tiny"', "truncated"),
        (b'["model"]', "must be a JSON object"),
        (b'{"model": "tiny", "messages": "\xff"}', "not UTF-8: byte 31 is 0xff"),
        (b"[" * 100_000, "JSON"),
        (b'{"model":"tiny","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON"),
    ],
)
async def test_malformed_body_is_refused_with_its_position(content: bytes, words: str) -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        assert words in await refused(gate, 400, content=content, code="invalid_json", param=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", "hi"),
        ("messages", None),
        ("max_tokens", "many"),
        ("max_tokens", -1),
        ("max_tokens", 10**400),
        ("n", 10**400),
        ("max_completion_tokens", 1.5),
        ("stream", "yes"),
        ("n", 0),
        ("n", "2"),
        ("stream_options", []),
        ("vllm_xargs", "x"),
        ("model", 5),
        ("model", ""),
    ],
)
async def test_wrong_type_is_refused_with_its_field(field: str, value: object) -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        fields = {"model": "tiny", "messages": [], field: value}
        message = await refused(gate, 400, fields=fields, param=field, type="invalid_request_error")
        assert field in message
        assert not engine.requests


async def test_missing_fields_are_named() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        await refused(gate, 400, fields={"messages": []}, param="model", code="missing_required_parameter")
        await refused(gate, 400, fields={"model": "tiny"}, param="messages")
        await refused(gate, 400, fields={"model": "tiny"}, param="prompt", path="/v1/completions")


async def test_unknown_model_is_refused() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        message = await refused(gate, 404, fields={"model": "huge", "messages": []}, code="model_not_found")
        assert "tiny" in message


async def test_unknown_route_and_wrong_method_are_refused() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        await refused(gate, 404, fields={}, path="/v1/load_lora_adapter", code="unknown_url")
        reply = await gate.client.get("/v1/chat/completions", headers=AUTH)
        assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_allowed")
        assert (await gate.client.delete("/v1/models", headers=AUTH)).status_code == 405


async def test_client_of_the_responses_api_is_told_what_to_use() -> None:
    async with gateway() as gate:
        client = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=GOLD_KEY, max_retries=0)
        with pytest.raises(openai.NotFoundError, match="use POST /v1/chat/completions"):
            await client.responses.create(model="tiny", input="hi")


async def test_headers_may_ask_for_less_and_never_get_more() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        reply = await gate.chat(key=FREE_KEY, headers={"x-proserve-class": "high"})
        assert reply.headers["x-proserve-class"] == "low"
        reply = await gate.chat(headers={"x-proserve-class": "low", "x-proserve-ttft-ms": "9000"})
        assert reply.headers["x-proserve-class"] == "low"
        assert engine.requests[1].body["vllm_xargs"]["proserve_ttft_ms"] == 9000


@pytest.mark.parametrize("chunked", [True, False])
async def test_oversized_body_is_refused(chunked: bool) -> None:
    async def pieces() -> Any:
        for _ in range(40):
            yield b" " * 100

    async with fake_engine() as engine, gateway(engine, limits=HttpLimits(body_bytes=2000)) as gate:
        content = pieces() if chunked else b" " * 4000
        reply = await gate.client.post("/v1/chat/completions", content=content, headers=AUTH)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
        assert "2000 bytes" in reply.json()["error"]["message"]
        assert (await gate.chat()).status_code == 200


async def test_body_that_does_not_arrive_is_given_up() -> None:
    async with fake_engine() as engine, gateway(engine, limits=HttpLimits(body_s=0.05)) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nauthorization: Bearer {GOLD_KEY}\r\ncontent-length: 9\r\n\r\n{{".encode()
        )
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        writer.close()


@pytest.mark.parametrize("headers", [b"x: y\r\n" * 11_000, b"x: " + b"y" * 66_000], ids=["many", "one"])
async def test_headers_that_do_not_end_are_refused(headers: bytes) -> None:
    async with gateway() as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: here\r\n" + headers)
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_client_that_asks_for_another_protocol_is_told_to_use_this_one() -> None:
    body = b'{"model":"tiny","messages":[]}'
    asked = {**AUTH, "connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAA"}
    async with fake_engine() as engine, gateway(engine) as gate:
        reply = await gate.client.post("/v1/chat/completions", content=body, headers=asked)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "upgrade_not_supported")
        assert "h2c" in reply.json()["error"]["message"]


async def test_refusal_of_the_engine_reaches_the_client_and_costs_no_gain() -> None:
    error = {"message": "max_tokens is too large", "type": "BadRequestError", "param": "max_tokens", "code": 400}

    async def refuse(request: FakeRequest, reply: Reply) -> None:
        await reply.json(400, {"error": error})

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = refuse
        fields = {"model": "tiny", "messages": []}
        await refused(gate, 400, fields=fields, param="max_tokens", type="BadRequestError", message=error["message"])
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="400") == 1
        assert gate.accounting.ledger.total().requests == 0


async def test_engine_that_refuses_our_key_is_not_the_clients_fault() -> None:
    async def refuse(request: FakeRequest, reply: Reply) -> None:
        await reply.json(401, {"error": "Unauthorized"})

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = refuse
        await refused(gate, 502, fields={"model": "tiny", "messages": []}, code="engine_credentials")


# Failures of engines


async def die_before_answering(request: FakeRequest, reply: Reply) -> None:
    reply.reset()


async def answer_503(request: FakeRequest, reply: Reply) -> None:
    await reply.json(503, {"error": {"message": "overloaded", "type": "x", "code": 503}})


async def open_stream_then_die(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    reply.reset()


async def stream_nothing(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.end()


async def talk_nonsense(request: FakeRequest, reply: Reply) -> None:
    await reply.raw(b"nonsense\r\n\r\n")


FAILURES_BEFORE_THE_FIRST_BYTE = [
    die_before_answering, answer_503, open_stream_then_die, stream_nothing, talk_nonsense,
]  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES_BEFORE_THE_FIRST_BYTE)
async def test_engine_that_fails_before_the_first_byte_is_replaced_by_another(failure: Any) -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b) as gate:
        a.behave = failure
        for _ in range(2):
            reply = await gate.chat(stream=True)
            assert (reply.status_code, reply.headers["x-proserve-engine"]) == (200, "b")
            assert text_of(events(reply.text)) == "t0 t1 t2 t3 "
        assert gate.accounting.ledger.total().lost == {}


@pytest.mark.parametrize("failure", FAILURES_BEFORE_THE_FIRST_BYTE)
async def test_failure_without_another_engine_is_an_error_that_names_it(failure: Any) -> None:
    async with fake_engine("a") as a, gateway(a) as gate:
        a.behave = failure
        reply = await gate.chat(stream=True)
        assert reply.status_code == (503 if failure is answer_503 else 502)
        assert "engine a" in reply.json()["error"]["message"]
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="engine_failure") > 0
        assert gate.sample("requests_in_flight", cls="high", tenant="gold", model="tiny") == 0


async def test_only_one_other_engine_is_tried() -> None:
    async with (
        fake_engine("a") as a,
        fake_engine("b") as b,
        fake_engine("c") as c,
        gateway(a, b, c) as gate,
    ):
        for engine in (a, b, c):
            engine.behave = answer_503
        assert (await gate.chat()).status_code == 503
        assert len(a.requests) + len(b.requests) + len(c.requests) == 2


async def say_429(request: FakeRequest, reply: Reply) -> None:
    error = {"message": "too many requests", "type": "rate_limit_error", "code": "rate_limit"}
    await reply.json(429, {"error": error}, "retry-after: 7\r\n")


async def test_engine_that_is_too_busy_is_replaced_by_another() -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b) as gate:
        a.behave = say_429
        for _ in range(2):
            assert (await gate.chat()).status_code == 200


async def test_request_that_every_engine_is_too_busy_for_is_shed() -> None:
    async with fake_engine("a") as a, gateway(a) as gate:
        a.behave = say_429
        for _ in range(5):
            reply = await gate.chat()
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="shed") > 0
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="engine_failure") == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_fault_of_the_gateway_is_an_error_and_leaves_the_books_right(
    monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with fake_engine("a") as a, gateway(a) as gate:
        monkeypatch.setattr(RequestBody, "encode", fail)
        error = (await gate.chat(stream=stream)).json()["error"]
        assert error["code"] == "internal_error"
        assert gate.sample("requests_in_flight", cls="high", tenant="gold", model="tiny") == 0
        assert gate.fleet.status()[0].in_flight == 0


async def test_engine_that_is_gone_is_a_bad_gateway() -> None:
    async with fake_engine("a") as a:
        pass
    async with gateway(a) as gate:
        assert (await gate.chat()).status_code == 502


async def test_no_engine_at_all_says_when_to_come_back() -> None:
    async with gateway() as gate:
        reply = await gate.chat()
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


async def broken_after_two_tokens(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    for count in (1, 2):
        usage = {"prompt_tokens": 7, "completion_tokens": count}
        await reply.event({"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": usage})
    await asyncio.sleep(0.01)


async def reset_after_two_tokens(request: FakeRequest, reply: Reply) -> None:
    await broken_after_two_tokens(request, reply)
    reply.reset()


async def end_without_done(request: FakeRequest, reply: Reply) -> None:
    await broken_after_two_tokens(request, reply)
    await reply.end()


async def malformed_event(request: FakeRequest, reply: Reply) -> None:
    await broken_after_two_tokens(request, reply)
    await reply.chunk(b'data: {"error": oops\n\n')
    await asyncio.sleep(1)


@pytest.mark.parametrize("failure", [reset_after_two_tokens, end_without_done, malformed_event])
async def test_stream_that_breaks_ends_with_an_error_event(failure: Any) -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b) as gate:
        a.behave = b.behave = failure
        reply = await gate.chat(stream=True)
        chunks = events(reply.text)
        assert text_of(chunks) == "xx"
        assert chunks[-2]["error"]["code"] == "engine_failure"
        assert chunks[-1] == "[DONE]"
        assert len(a.requests) + len(b.requests) == 1
        assert gate.sample("gain_earned_total", cls="high", tenant="gold") == 2 * 4
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="engine_failure") > 0
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="502") == 1


async def test_engines_own_error_event_passes_and_counts_as_its_failure() -> None:
    async def fail(request: FakeRequest, reply: Reply) -> None:
        await broken_after_two_tokens(request, reply)
        await reply.event({"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}})
        await reply.event("[DONE]")
        await reply.end()

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = fail
        chunks = events((await gate.chat(stream=True)).text)
        assert chunks[-2]["error"]["message"] == "out of memory"
        assert chunks[-1] == "[DONE]"
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="engine_failure") > 0


async def test_truncated_whole_reply_is_never_a_success() -> None:
    async def truncate(request: FakeRequest, reply: Reply) -> None:
        await reply.raw(b'HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{"choices": [{"ind')
        raise ConnectionError

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = truncate
        assert (await gate.chat()).status_code == 502


async def test_silent_engine_is_a_gateway_timeout() -> None:
    async def hang(request: FakeRequest, reply: Reply) -> None:
        await asyncio.sleep(5)

    limits = UpstreamLimits(head_s=0.05)
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b, upstream=limits) as gate:
        a.behave = b.behave = hang
        assert (await gate.chat()).status_code == 504
        assert len(a.requests) + len(b.requests) == 1


# Clients that leave, or are slow


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_before_the_first_byte_aborts_at_the_engine(stream: bool) -> None:
    async def hang(request: FakeRequest, reply: Reply) -> None:
        await asyncio.sleep(5)

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = hang
        asking = asyncio.create_task(gate.chat(stream=stream))
        await engine.asked.wait()
        asking.cancel()
        await asyncio.wait_for(engine.client_left.wait(), 0.1)
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="client_cancel") > 0
        assert gate.sample("requests_in_flight", cls="high", tenant="gold", model="tiny") == 0


async def test_client_that_leaves_inside_a_stream_aborts_at_the_engine() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        engine.token_gate = asyncio.Event()
        body = {"model": "tiny", "messages": [], "stream": True, "max_tokens": 10}
        async with gate.client.stream("POST", "/v1/chat/completions", json=body, headers=AUTH) as reply:
            lines = reply.aiter_lines()
            while "t1 " not in await anext(lines):
                pass
        await asyncio.wait_for(engine.client_left.wait(), 0.1)
        assert gate.sample("output_tokens_total", cls="high", tenant="gold", model="tiny") == 2
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="client_cancel") > 0
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="499") == 1


async def endless(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    while True:
        await reply.event({"choices": [{"index": 0, "delta": {"content": "x" * 10_000}}]})


async def ask_and_never_read(gate: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Both must be kept: a connection without its reader takes everything and throws it away."""
    body = b'{"model":"tiny","messages":[],"stream":true}'
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port, limit=1024)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {GOLD_KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    return reader, writer


async def test_slow_client_stops_the_engine_instead_of_filling_memory() -> None:
    sent = 0

    async def counted(request: FakeRequest, reply: Reply) -> None:
        nonlocal sent
        await reply.start_stream()
        while True:
            await reply.event({"choices": [{"index": 0, "delta": {"content": "x" * 10_000}}]})
            sent += 10_000

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = counted
        reader, writer = await ask_and_never_read(gate)
        before = -1
        while before != sent or not sent:  # until nobody makes progress
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 40 * 2**20
        assert not reader.at_eof()
        writer.transport.abort()
        await asyncio.wait_for(engine.client_left.wait(), 1)


async def test_client_that_takes_nothing_is_cut() -> None:
    async with fake_engine() as engine, gateway(engine, stall_ms=300) as gate:
        engine.behave = endless
        reader, writer = await ask_and_never_read(gate)
        await asyncio.wait_for(engine.client_left.wait(), 5)
        assert not reader.at_eof()
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="499") == 1
        writer.close()


# Counting


async def test_choices_of_one_request_are_all_counted() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        await gate.chat(stream=True, n=3, max_tokens=5)
        assert gate.sample("output_tokens_total", cls="high", tenant="gold", model="tiny") == 15


async def test_late_tokens_are_lost_with_their_cause() -> None:
    now_s = 100.0

    async with fake_engine() as engine, gateway(engine, clock=lambda: now_s) as gate:
        engine.token_gate = asyncio.Event()
        body = {"model": "tiny", "messages": [], "stream": True, "max_tokens": 4}
        async with gate.client.stream("POST", "/v1/chat/completions", json=body, headers=AUTH) as reply:
            lines = reply.aiter_lines()
            while "t1 " not in await anext(lines):
                pass
            now_s = 110.0
            engine.token_gate.set()
            async for _ in lines:
                pass
        assert gate.sample("gain_earned_total", cls="high", tenant="gold") == 2 * 4
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="late_token_batched") == 2 * 4


async def test_connections_are_kept_alive_over_errors_and_streams() -> None:
    async with fake_engine() as engine, gateway(engine) as gate:
        client = httpx.AsyncClient(base_url=gate.url, limits=httpx.Limits(max_connections=1))
        async with client:
            for body in ({"model": "huge", "messages": []}, {"model": "tiny", "messages": [], "stream": True}):
                reply = await client.post("/v1/chat/completions", json=body, headers=AUTH)
                assert "connection" not in reply.headers
