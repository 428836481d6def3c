"""Numbers in engines' answers are believed only as far as they can be true: gain and quotas add them up."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_openai_engine import FakeRequest, Reply, fake_engine
from gateway_builders import gateway
from openai_replies import events, text_of
from proserve_core.objectives import TenantLimits
from proserve_gateway.relay.responses_relay import ResponsesRelay
from proserve_gateway.relay.sse import SseError, decode_reply
from proserve_gateway.relay.sse_relay import SseRelay
from proserve_gateway.relay.token_trail import TokenTrail
from proserve_gateway.requests.body import MOST_UNASKED_TOKENS, BodyKind, parse_body

MOST = 1000
MANY_DIGITS = "9" * 5000


def chunk(count: object, *, index: int = 0, text: str = "t", finish: str | None = None, ids: str = "7") -> bytes:
    """As vLLM writes it, with any text as the count."""
    reason = json.dumps(finish)
    return (
        f'data: {{"id":"c","choices":[{{"index":{index},"delta":{{"content":"{text}"}},"logprobs":null,'
        f'"finish_reason":{reason},"token_ids":[{ids}]}}],"usage":{{"prompt_tokens":7,"total_tokens":9,'
        f'"completion_tokens":{count}}}}}\n\n'
    ).encode()


def final(count: object, prompt: object = 7) -> bytes:
    return f'data: {{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{count}}}}}\n\n'.encode()


def relay(*, choices: int = 1, trail: bool = False) -> SseRelay:
    return SseRelay(
        include_usage=False,
        continuous_usage=False,
        choices=choices,
        most_tokens=MOST,
        trail=TokenTrail() if trail else None,
    )


@pytest.mark.parametrize("count", [MOST + 1, 10**15, MANY_DIGITS, -3])
@pytest.mark.parametrize("how", ["alone", "together", "with a space", "at the end"])
def test_count_that_cannot_be_true_is_a_failure_and_what_came_before_is_kept(count: object, how: str) -> None:
    wrong = {"with a space": chunk(count).replace(b'tokens":', b'tokens": '), "at the end": final(count)}
    stream, bad = relay(trail=True), wrong.get(how, chunk(count))
    got = stream.feed(chunk(1) + bad) if how == "together" else stream.feed(chunk(1)) + stream.feed(bad)
    assert stream.failure is not None
    assert (got.count(b"data: "), stream.tokens) == (1, 1)


def test_choice_that_was_not_asked_for_is_a_failure() -> None:
    stream = relay(choices=2)
    stream.feed(chunk(1, index=1))
    stream.feed(chunk(1, index=2))
    assert "choice 2 where 2 were asked for" in str(stream.failure)


@pytest.mark.parametrize("count", [MOST + 1, 10**15, MANY_DIGITS, -3])
def test_counts_of_responses_are_no_more_believed(count: object) -> None:
    stream = ResponsesRelay(most_tokens=MOST)
    usage = f'{{"input_tokens":7,"output_tokens":{count}}}'
    stream.feed(f'data: {{"type":"response.completed","response":{{"usage":{usage}}}}}\n\n'.encode())
    assert stream.failure is not None
    assert (stream.done, stream.tokens) == (False, 0)


numbers = st.one_of(
    st.floats().map(repr), st.integers().map(str), st.integers(1, 6000).map(lambda digits: "9" * digits), st.text()
)
pieces = st.one_of(
    st.builds(chunk, numbers, index=st.integers(-1, 3), finish=st.sampled_from([None, "stop"]), ids=numbers),
    st.builds(final, numbers, numbers),
    st.just(b"data: [DONE]\n\n"),
    st.binary(max_size=20),
)


@given(choices=st.sampled_from([1, 2]), trail=st.booleans(), sent=st.lists(pieces, max_size=6))
def test_whatever_an_engine_streams_is_counted_within_bounds_or_a_failure(
    choices: int, trail: bool, sent: list[bytes]
) -> None:
    stream = relay(choices=choices, trail=trail)
    for data in sent:
        before = stream.tokens
        stream.feed(data)
        assert before <= stream.tokens <= MOST
        assert stream.fresh is None or sum(stream.fresh.values()) == stream.tokens
        if stream.failure is not None or stream.done:
            break
    if stream.trail is not None and stream.trail.told:
        assert all(id_ >= 0 for id_ in stream.trail.last(3))


@pytest.mark.parametrize(("ids", "told"), [("1,2", True), ("1, 2", True), (",,", False), ("1,,2", False)])
def test_ids_that_are_no_numbers_are_not_told(ids: str, told: bool) -> None:
    trail = TokenTrail()
    trail.take(f'data: {{"prompt_token_ids":[5,6],"choices":[{{"x":1,"token_ids":[{ids}]}}]}}\n\n'.encode())
    trail.prompt = b"5,6"
    assert trail.told is told


def test_ids_of_which_one_is_too_long_are_not_told() -> None:
    trail = TokenTrail()
    trail.prompt = MANY_DIGITS.encode()
    assert not trail.told


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, MOST_UNASKED_TOKENS),
        ({"n": 3}, 3 * MOST_UNASKED_TOKENS),
        ({"max_tokens": 10, "n": 3}, 3 * 1034),
        ({"max_tokens": 10, "best_of": 50}, MOST_UNASKED_TOKENS),
    ],
)
def test_most_that_is_believed_is_what_was_asked_for_and_a_little(fields: dict[str, Any], most: int) -> None:
    body = parse_body(BodyKind.COMPLETION, json.dumps({"model": "m", "prompt": "p", **fields}).encode())
    assert body.most_output_tokens == most


def counting(count: object) -> Any:
    """An engine whose answers say that."""

    async def answer(request: FakeRequest, reply: Reply) -> None:
        if request.body.get("stream"):
            await reply.start_stream()
            await reply.chunk(chunk(count))
            return
        choices = [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]
        body = json.dumps({"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": "COUNT"}})
        await reply.whole(200, body.replace('"COUNT"', str(count)).encode())

    return answer


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("count", [10**15, MANY_DIGITS, 5000])
async def test_engine_that_counts_what_cannot_be_is_replaced_and_nothing_of_it_is_booked(
    stream: bool, count: object
) -> None:
    limits = TenantLimits(tokens_per_minute=100_000)
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b, tenant_limits=limits) as gate:
        a.behave = counting(count)
        for _ in range(2):
            reply = await gate.chat(stream=stream, max_tokens=4)
            assert (reply.status_code, reply.headers["x-proserve-engine"]) == (200, "b")
            assert not stream or text_of(events(reply.text)) == "t0 t1 t2 t3 "
        assert gate.accounting.ledger.total().tokens == 8
        assert gate.sample("engine_failures_total", pool="tiny", reason="bad_stream") >= 1


async def test_fault_of_the_gateway_inside_a_stream_is_an_error_event_and_no_cancel_of_the_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    feed = SseRelay.feed

    def faulty(self: SseRelay, data: bytes) -> bytes:
        if b"t2" in data:
            raise ZeroDivisionError
        return feed(self, data)

    monkeypatch.setattr(SseRelay, "feed", faulty)
    async with fake_engine("a") as a, fake_engine("b") as b, gateway(a, b) as gate:
        a.token_gate = b.token_gate = asyncio.Event()
        asking = asyncio.create_task(gate.chat(stream=True))
        await gate.tokens(2)
        a.token_gate.set()
        reply = await asking
        last, done = reply.text.strip().split("\n\n")[-2:]
        assert "the gateway made a mistake" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert done == "data: [DONE]"
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="engine_failure") > 0
        assert gate.sample("gain_lost_total", cls="high", tenant="gold", cause="client_cancel") == 0
        assert gate.sample("broken_streams_total", pool="tiny", result="fault") == 1
        assert [state.in_flight for state in gate.fleet.status()] == [0, 0]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


@given(st.binary(max_size=60))
def test_reply_is_read_or_refused(noise: bytes) -> None:
    for body in (noise, b'{"usage":{"completion_tokens":%s}}' % noise, b'{"usage":{"prompt_tokens":%s}}' % noise):
        try:
            usage = decode_reply(body).usage
        except SseError:
            continue
        assert usage is None or (usage.prompt_tokens or 0) >= 0
