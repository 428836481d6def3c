"""Streams whose engine fails after tokens were sent: another engine goes on, and the client sees one stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from fake_openai_engine import FakeEngine, FakeRequest, Reply, fake_engine
from gateway_builders import Gateway, gateway
from openai_replies import AUTH, events
from proserve_core.engine_metrics import EngineReading
from proserve_gateway.fleet.health import MISSES_TO_LOSE
from proserve_gateway.fleet.progress import STUCK_S
from proserve_gateway.upstream.exchange import UpstreamLimits

TOKENS = 8


@asynccontextmanager
async def two_engines(**settings: Any) -> AsyncIterator[tuple[Gateway, FakeEngine, FakeEngine]]:
    """A gateway that gives the first request to engine a."""
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b, **settings) as gate:
        yield gate, a, b


async def ask(gate: Gateway, *, chat: bool, **fields: Any) -> httpx.Response:
    prompt = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    body = {"model": "tiny", "stream": True, "max_tokens": TOKENS, **prompt, **fields}
    return await gate.client.post(f"/v1/{'chat/' * chat}completions", json=body, headers=AUTH)


def said(chunks: list[Any]) -> str:
    choices = [choice for chunk in chunks if chunk != "[DONE]" for choice in chunk.get("choices", ())]
    return "".join(choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices)


def text(tokens: int) -> str:
    return "".join(f"t{number} " for number in range(tokens))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("break_before", range(1, TOKENS))
async def test_stream_is_the_same_wherever_its_engine_fails(chat: bool, break_before: int) -> None:
    async with two_engines() as (gate, a, _b):
        a.break_before = break_before
        reply = await ask(gate, chat=chat, stream_options={"include_usage": True})
        chunks = events(reply.text)
        assert said(chunks) == text(TOKENS)
        assert chunks[-1] == "[DONE]"
        assert {chunk["id"] for chunk in chunks[:-1]} == {"cmpl-a"}
        assert len({(chunk["created"], chunk["object"], chunk["model"]) for chunk in chunks[:-1]}) == 1
        reasons = [choice["finish_reason"] for chunk in chunks[:-1] for choice in chunk["choices"]]
        assert [reason for reason in reasons if reason] == ["length"]
        assert chunks[-2]["usage"] == {"prompt_tokens": 7, "total_tokens": 7 + TOKENS, "completion_tokens": TOKENS}
        assert "token_ids" not in reply.text
        assert gate.sample("broken_streams_total", pool="tiny", result="continued") == 1
        assert gate.sample("output_tokens_total", cls="high", tenant="gold", model="tiny") == TOKENS
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="200") == 1
        assert [engine.in_flight for engine in gate.fleet.status()] == [0, 0]


async def test_engine_that_goes_on_is_told_the_tokens_that_are_left_and_when_they_are_due() -> None:
    now_s = 100.0
    async with two_engines(clock=lambda: now_s) as (gate, a, b):
        a.break_before = 3
        await ask(gate, chat=True, temperature=0, frequency_penalty=0, user="somebody")
    body = b.requests[-1].body
    assert b.requests[-1].path == "/v1/completions"
    assert body["prompt"] == [1, 2, 3, 4, 5, 6, 7, 100, 101, 102]
    assert (body["max_tokens"], body["temperature"], body["user"]) == (TOKENS - 3, 0, "somebody")
    facts = body["vllm_xargs"]
    # The fourth token's deadline, counted from the client's arrival, and its worth.
    assert facts["proserve_ttft_ms"] == pytest.approx(500 + 3 * 40)
    assert facts["proserve_age_ms"] == 0
    assert facts["proserve_first_gain"] == facts["proserve_token_gain"]


async def test_stream_goes_on_as_often_as_engines_fail_that_made_progress() -> None:
    async with two_engines() as (gate, a, b):
        a.break_before = 2
        b.break_before = 5
        failing = a.generate

        async def fail_once(request: FakeRequest, reply: Reply) -> None:
            a.behave = a.generate
            await failing(request, reply)
            a.break_before = None

        a.behave = fail_once
        chunks = events((await ask(gate, chat=True)).text)
        assert said(chunks) == text(TOKENS)
        assert gate.sample("broken_streams_total", pool="tiny", result="continued") == 2


@pytest.mark.parametrize("stop", ["t6", ["t9", "5 t6"], " t6 "])
@pytest.mark.parametrize("break_before", [2, 5, 6])
async def test_stop_string_is_found_across_the_seam(stop: Any, break_before: int) -> None:
    async with two_engines() as (gate, a, b):
        a.break_before = break_before
        chunks = events((await ask(gate, chat=False, stop=stop, stream_options={"include_usage": True})).text)
        found = next(each for each in ([stop] if isinstance(stop, str) else stop) if each in text(TOKENS))
        assert said(chunks) == text(TOKENS)[: text(TOKENS).index(found)]
        assert chunks[-3]["choices"][0]["finish_reason"] == "stop"
        assert chunks[-3]["choices"][0]["stop_reason"] == found
        assert chunks[-2]["usage"]["completion_tokens"] == 7
        assert "stop" not in b.requests[-1].body


@pytest.mark.parametrize(("stop", "chunk_tokens"), [("xxxxx", 1), ("xxxxx", 3), ("x", 1)])
async def test_special_tokens_that_streams_leave_out_do_not_come_in_at_the_seam(stop: str, chunk_tokens: int) -> None:
    for break_before in range(2, TOKENS):
        async with two_engines() as (gate, a, b):
            a.special = b.special = {3: "<|special|>", 4: "<s>"}
            a.chunk_tokens, a.break_before = chunk_tokens, break_before
            chunks = events((await ask(gate, chat=True, stop=stop, stream_options={"include_usage": True})).text)
            assert said(chunks) == "".join(f"t{number} " for number in range(TOKENS) if number not in a.special)
            assert chunks[-2]["usage"]["completion_tokens"] == TOKENS


async def test_tokens_are_kept_of_whose_text_something_was_sent() -> None:
    async with two_engines() as (gate, a, b):
        a.special = b.special = {2: "<|special|>"}
        a.break_before = 5
        # As if drawn: engine b would say something else for the same tokens.
        b.texts = lambda number: f"t{number} " if number < 4 else f"other{number} "
        chunks = events((await ask(gate, chat=False, stop="xxxxx")).text)
        # "t0 t1 t3 t4 " less the four characters that may begin the stop string.
        assert b.requests[-1].body["prompt"] == [1, 2, 3, 4, 5, 6, 7, 100, 101, 102, 103]
        assert said(chunks) == "t0 t1 t3 other4 other5 other6 other7 "


async def test_character_that_was_cut_in_two_is_neither_lost_nor_doubled() -> None:
    def texts(number: int) -> str:
        return {3: "\ufffd", 4: "\ufffd", 5: "ö"}.get(number, f"t{number} ")

    for break_before in range(1, TOKENS):
        async with two_engines() as (gate, a, b):
            a.texts = b.texts = texts
            a.break_before = break_before
            chunks = events((await ask(gate, chat=True)).text)
            assert said(chunks) == "t0 t1 t2 öt6 t7 "
            assert gate.sample("output_tokens_total", cls="high", tenant="gold", model="tiny") == TOKENS


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("usage", [True, False])
async def test_stream_that_lacks_only_its_end_gets_it_without_another_engine(chat: bool, usage: bool) -> None:
    async def all_but_done(request: FakeRequest, reply: Reply) -> None:
        kept = Kept(reply)
        await FakeEngine().generate(request, kept)  # type: ignore[arg-type]
        await reply.start_stream()
        for event in kept.events[:-2]:
            await reply.event(event)
        reply.hang_up()

    async with two_engines() as (gate, a, b):
        a.behave = all_but_done
        chunks = events((await ask(gate, chat=chat, stream_options={"include_usage": usage})).text)
        assert said(chunks) == text(TOKENS)
        assert chunks[-1] == "[DONE]"
        assert chunks[-2].get("usage", {}).get("completion_tokens") == (TOKENS if usage else None)
        assert b.requests == []
        assert gate.sample("broken_streams_total", pool="tiny", result="only_end_missing") == 1


class Kept:
    """Keeps events instead of sending them."""

    def __init__(self, reply: Reply) -> None:
        self.events: list[Any] = []

    async def start_stream(self) -> None: ...

    async def end(self) -> None: ...

    async def event(self, value: Any) -> None:
        self.events.append(value)


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "request"),
        ({"logprobs": True}, "request"),
        ({"n": 2}, "request"),
        ({"seed": 7}, "request"),
        ({"response_format": {"type": "json_object"}}, "request"),
        ({"presence_penalty": 0.5}, "request"),
        ({"something_new": 1}, "request"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "request"),
    ],
)
async def test_what_cannot_be_continued_ends_with_an_error_and_the_usage_so_far(
    fields: dict[str, Any], result: str
) -> None:
    async with two_engines() as (gate, a, b):
        a.break_before = 3
        chunks = events((await ask(gate, chat=True, **fields)).text)
        assert chunks[-1] == "[DONE]"
        assert chunks[-2]["error"]["code"] == "engine_failure"
        assert chunks[-2]["usage"]["completion_tokens"] == 3 * fields.get("n", 1)
        assert b.requests == []
        assert gate.sample("broken_streams_total", pool="tiny", result=result) == 1
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="502") == 1


@pytest.mark.parametrize(
    "fields", [{"seed": 7, "temperature": 0}, {"logprobs": False}, {"n": 1}, {"tools": []}, {"tool_choice": "none"}]
)
async def test_fields_that_say_nothing_do_not_hinder(fields: dict[str, Any]) -> None:
    async with two_engines() as (gate, a, _b):
        a.break_before = 3
        assert said(events((await ask(gate, chat=True, **fields)).text)) == text(TOKENS)


async def test_stream_of_a_stock_vllm_goes_on_at_another_without_facts() -> None:
    async with two_engines(ours=False, is_vllm=True) as (gate, a, b):
        a.break_before = 3
        assert said(events((await ask(gate, chat=True)).text)) == text(TOKENS)
        assert "vllm_xargs" not in b.requests[-1].body


async def test_engine_that_tells_no_ids_ends_its_stream_with_an_error() -> None:
    async with two_engines(ours=False) as (gate, a, _b):
        a.break_before = 3
        chunks = events((await ask(gate, chat=True)).text)
        assert chunks[-2]["error"]["code"] == "engine_failure"
        assert "return_token_ids" not in a.requests[0].body


async def test_stream_with_stop_strings_whose_text_is_not_valid_ends_with_an_error() -> None:
    async def invalid(request: FakeRequest, reply: Reply) -> None:
        await reply.start_stream()
        choice = {"index": 0, "text": "good", "finish_reason": None}
        choice |= {"prompt_token_ids": [1], "token_ids": [100]}
        usage = {"prompt_tokens": 1, "total_tokens": 2, "completion_tokens": 1}
        chunk = {"id": "x", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}
        event = json.dumps({**chunk, "usage": usage}, separators=(",", ":")).encode()
        await reply.chunk(b"data: " + event.replace(b"good", b"b\xffd") + b"\n\n")
        reply.hang_up()

    async with two_engines() as (gate, a, b):
        a.behave = invalid
        reply = await ask(gate, chat=False, stop="xxxxx")
        assert b'"code":"engine_failure"' in reply.content
        assert b.requests == []


async def test_pool_with_one_engine_is_not_asked_for_ids() -> None:
    async with fake_engine("a") as a, gateway(a) as gate:
        await ask(gate, chat=True)
        assert "return_token_ids" not in a.requests[0].body


async def test_stream_that_no_engine_can_go_on_with_ends_with_an_error() -> None:
    async def refuse(request: FakeRequest, reply: Reply) -> None:
        reply.reset()

    async with (
        fake_engine("a") as a,
        fake_engine("b") as b,
        fake_engine("c") as c,
        fake_engine("d") as d,
        gateway(a, b, c, d) as gate,
    ):
        a.break_before = 3
        for engine in (b, c, d):
            engine.behave = refuse
        chunks = events((await ask(gate, chat=True)).text)
        assert chunks[-2]["error"]["code"] == "engine_failure"
        assert gate.sample("broken_streams_total", pool="tiny", result="no_engine") == 1
        # Three in a row at most, the one that failed first included.
        assert len(b.requests) + len(c.requests) + len(d.requests) == 2


async def test_error_event_of_an_engine_is_a_failure_that_is_made_good() -> None:
    async def fail(request: FakeRequest, reply: Reply) -> None:
        kept = Kept(reply)
        await FakeEngine().generate(request, kept)  # type: ignore[arg-type]
        await reply.start_stream()
        for event in kept.events[:4]:
            await reply.event(event)
        await reply.event({"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}})
        await reply.event("[DONE]")
        await reply.end()

    async with two_engines() as (gate, a, _b):
        a.behave = fail
        reply = await ask(gate, chat=True)
        assert said(events(reply.text)) == text(TOKENS)
        assert "EngineCore" not in reply.text


async def test_client_that_leaves_a_continued_stream_cancels_it_where_it_is() -> None:
    async with two_engines() as (gate, a, b):
        a.break_before = 2
        b.token_gate = asyncio.Event()
        body = {"model": "tiny", "stream": True, "max_tokens": TOKENS, "prompt": "hi"}
        async with gate.client.stream("POST", "/v1/completions", json=body, headers=AUTH) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: ") and json.loads(line[6:])["choices"][0]["text"] == "t3 ":
                    break
        await b.client_left.wait()
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="499") == 1
        assert [engine.in_flight for engine in gate.fleet.status()] == [0, 0]


def miss_polls(gate: Gateway, engine: str) -> None:
    found = next(each for each in gate.fleet.engines if each.target.name == engine)
    for _ in range(MISSES_TO_LOSE):
        gate.fleet.poll_missed(found, "no answer within 3.5 s")


async def test_stream_of_an_engine_that_hangs_goes_on_elsewhere_once_its_polls_are_missed() -> None:
    async with two_engines(upstream=UpstreamLimits(lost_quiet_s=0.0)) as (gate, a, b):
        a.token_gate = asyncio.Event()
        asking = asyncio.ensure_future(ask(gate, chat=True))
        await gate.tokens(2)
        miss_polls(gate, "a")
        assert said(events((await asking).text)) == text(TOKENS)
        assert len(b.requests) == 2
        await a.client_left.wait()
        assert gate.sample("engine_failures_total", pool="tiny", reason="lost") == 1


async def test_stream_of_an_engine_that_answers_polls_and_computes_nothing_goes_on_elsewhere() -> None:
    now_s = 100.0
    async with two_engines(upstream=UpstreamLimits(lost_quiet_s=0.0), clock=lambda: now_s) as (gate, a, b):
        a.token_gate = asyncio.Event()
        asking = asyncio.ensure_future(ask(gate, chat=True))
        await gate.tokens(2)
        stuck = next(each for each in gate.fleet.engines if each.target.name == "a")
        for _ in range(round(STUCK_S) + 2):
            now_s += 1.0
            gate.fleet.metrics_arrived(stuck, EngineReading(running=1, waiting=0), is_vllm=True)
        assert said(events((await asking).text)) == text(TOKENS)
        assert len(b.requests) == 2
        await a.client_left.wait()
        assert gate.sample("engine_failures_total", pool="tiny", reason="stuck") == 1


async def test_engine_that_misses_polls_and_still_sends_keeps_its_streams() -> None:
    async with two_engines(upstream=UpstreamLimits(lost_quiet_s=60.0)) as (gate, a, b):
        a.token_gate = asyncio.Event()
        asking = asyncio.ensure_future(ask(gate, chat=True))
        await gate.tokens(2)
        miss_polls(gate, "a")
        a.token_gate.set()
        assert said(events((await asking).text)) == text(TOKENS)
        assert b.requests == []


@pytest.mark.parametrize("stream", [True, False])
async def test_request_that_a_hanging_engine_never_answered_is_answered_by_another(stream: bool) -> None:
    async def hang(request: FakeRequest, reply: Reply) -> None:
        await asyncio.sleep(60)

    async with two_engines(upstream=UpstreamLimits(lost_quiet_s=0.0)) as (gate, a, _b):
        a.behave = hang
        asking = asyncio.ensure_future(ask(gate, chat=False, stream=stream))
        await a.asked.wait()
        miss_polls(gate, "a")
        reply = await asking
        assert (reply.status_code, reply.headers["x-proserve-engine"]) == (200, "b")
