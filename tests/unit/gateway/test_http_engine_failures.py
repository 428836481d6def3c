"""Engines that fail before or inside an answer over HTTP: another one is tried, or the client is told."""

import asyncio
from typing import Any

import httpx
import pytest

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import gateway
from openai_replies import events, text_of
from proserve_core.gain import LossCause
from proserve_gateway.http.request import HttpRequest
from proserve_gateway.requests.body import RequestBody
from proserve_gateway.requests.intake import Intake
from proserve_gateway.upstream.exchange import UpstreamLimits


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


async def comment_then_die(request: FakeRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.chunk(b": working on it\n\n")
    reply.hang_up()


FAILURES_BEFORE_THE_FIRST_BYTE = [
    die_before_answering, answer_503, open_stream_then_die, stream_nothing, talk_nonsense, comment_then_die,
]  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES_BEFORE_THE_FIRST_BYTE)
async def test_engine_that_fails_before_the_first_byte_is_replaced_by_another(failure: Any) -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b, clock=lambda: 0.0) as gate:
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


@pytest.mark.parametrize(("clock_s", "tried"), [(0.0, 3), (60.0, 2)])
async def test_three_engines_are_tried_at_most_and_two_when_the_first_token_is_late_anyway(
    clock_s: float, tried: int
) -> None:
    now_s = 0.0

    async def answer_503_late(request: FakeRequest, reply: Reply) -> None:
        nonlocal now_s
        now_s = clock_s
        await answer_503(request, reply)

    async with (
        fake_engine("a") as a,
        fake_engine("b") as b,
        fake_engine("c") as c,
        fake_engine("d") as d,
        gateway(a, b, c, d, clock=lambda: now_s) as gate,
    ):
        for engine in (a, b, c, d):
            engine.behave = answer_503_late
        assert (await gate.chat()).status_code == 503
        assert sorted(len(engine.requests) for engine in (a, b, c, d)) == [0] * (4 - tried) + [1] * tried
        assert gate.sample("engine_failures_total", pool="tiny", reason="busy") == tried


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


async def test_request_that_breaks_before_it_goes_anywhere_has_ended() -> None:
    def break_(*_: object) -> None:
        raise ZeroDivisionError

    async with fake_engine() as engine, gateway(engine) as gate:
        gate.decisions.on_begin.append(break_)
        reply = await gate.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
        assert gate.sample("requests_in_flight", cls="high", tenant="gold", model="tiny") == 0
        assert gate.sample("requests_total", cls="high", tenant="gold", model="tiny", code="500") == 1
        assert engine.requests == []


@pytest.mark.parametrize(("faulty", "name"), [(HttpRequest, "start"), (HttpRequest, "write"), (Intake, "accept")])
async def test_fault_while_an_answer_is_passed_on_is_booked_as_one(
    monkeypatch: pytest.MonkeyPatch, faulty: type, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with fake_engine("a") as a, gateway(a) as gate:
        monkeypatch.setattr(faulty, name, fail)
        if name == "write":
            # It has begun, so that nobody can be told: the connection is cut, which is no end of a stream.
            a.token_gate = asyncio.Event()
            asking = asyncio.create_task(gate.chat(stream=True))
            await gate.tokens(2)
            a.token_gate.set()
            with pytest.raises(httpx.RemoteProtocolError):
                await asking
        else:
            assert (await gate.chat(stream=True)).json()["error"]["code"] == "internal_error"
        assert LossCause.CLIENT_CANCEL not in gate.accounting.ledger.total().lost
        assert sum(gate.accounting.refusals.values()) == (faulty is Intake)
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


@pytest.mark.parametrize("tokens", [0, 2])
async def test_error_event_about_the_request_is_not_tried_elsewhere(tokens: int) -> None:
    async def refuse(request: FakeRequest, reply: Reply) -> None:
        await (broken_after_two_tokens(request, reply) if tokens else reply.start_stream())
        await reply.event({"error": {"message": "too long", "type": "BadRequestError", "code": 400}})
        await reply.event("[DONE]")
        await reply.end()

    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b) as gate:
        a.behave = b.behave = refuse
        reply = await gate.chat(stream=True)
        error = events(reply.text)[-2]["error"] if tokens else reply.json()["error"]
        assert (error["message"], reply.status_code) == ("too long", 200 if tokens else 400)
        assert len(a.requests) + len(b.requests) == 1
        assert gate.sample("engine_failures_total", pool="tiny", reason="bad_stream") == 0


async def test_truncated_whole_reply_is_never_a_success() -> None:
    async def truncate(request: FakeRequest, reply: Reply) -> None:
        await reply.raw(b'HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{"choices": [{"ind')
        raise ConnectionError

    async with fake_engine() as engine, gateway(engine) as gate:
        engine.behave = truncate
        assert (await gate.chat()).status_code == 502


async def hang(request: FakeRequest, reply: Reply) -> None:
    await asyncio.sleep(60)


async def test_silent_engine_is_replaced_when_the_time_for_its_headers_is_over() -> None:
    async with (
        fake_engine("a") as a,
        fake_engine("b") as b,
        gateway(a, b, upstream=UpstreamLimits(head_s=0.5)) as gate,
    ):
        a.behave = hang
        for _ in range(2):
            assert (await gate.chat()).headers["x-proserve-engine"] == "b"


@pytest.mark.parametrize(
    ("limits", "code", "tried"),
    [
        (UpstreamLimits(head_s=0.5), "engine_header_timeout", 2),
        (UpstreamLimits(total_s=0.5), "request_total_timeout", 1),
    ],
)
async def test_time_that_is_up_has_a_name(limits: UpstreamLimits, code: str, tried: int) -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b, upstream=limits) as gate:
        a.behave = b.behave = hang
        reply = await gate.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, code)
        assert len(a.requests) + len(b.requests) == tried
