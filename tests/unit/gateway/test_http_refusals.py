"""What is refused over HTTP, by the gateway or by an engine, and how clearly."""

import asyncio
import json
from typing import Any

import pytest

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import FREE_KEY, GOLD_KEY, Gateway, gateway
from openai_replies import AUTH
from proserve_gateway.http.api import HttpLimits


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
            f"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {GOLD_KEY}\r\ncontent-length: 9\r\n\r\n{{".encode()
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
