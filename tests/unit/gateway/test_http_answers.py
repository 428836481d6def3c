"""Answers over HTTP, and what is counted of them: a real server, a real upstream client, fake engines."""

import asyncio
from typing import Any

import httpx
import openai
import pytest

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import GOLD_KEY, gateway
from openai_replies import AUTH, events, text_of


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


@pytest.mark.parametrize("ours", [True, False], ids=["usage on every chunk", "usage at the end"])
async def test_choices_of_a_stream_are_judged_each_by_itself(ours: bool) -> None:
    async with fake_engine() as engine, gateway(engine, ours=ours) as gate:
        engine.token_gate = asyncio.Event()
        asking = asyncio.create_task(gate.chat(stream=True, n=3))
        await gate.tokens(6)
        engine.token_gate.set()
        assert (await asking).status_code == 200
        assert gate.accounting.ledger.total().tokens == 12
        assert gate.sample("time_per_output_token_seconds_count", cls="high", model="tiny") == 3
