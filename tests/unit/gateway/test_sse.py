"""Event streams on their way through: counted exactly, changed as little as possible, whatever the cuts."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_gateway.relay.sse import MAX_EVENT_BYTES, SseError, decode_reply, payloads
from proserve_gateway.relay.sse_relay import SseRelay
from proserve_gateway.relay.token_trail import TokenTrail

DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any], separators: tuple[str, str] = (",", ":")) -> bytes:
    return f"data: {json.dumps(value, separators=separators)}\n\n".encode()


def chunk(text: str, *, usage: int | None = None, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    made: dict[str, Any] = {"id": "c", "choices": [choice]}
    if usage is not None:
        made["usage"] = {"prompt_tokens": 7, "total_tokens": 7 + usage, "completion_tokens": usage}
    return made


def final(tokens: int) -> dict[str, Any]:
    return {"id": "c", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}}


def relay(*, include_usage: bool = False, continuous_usage: bool = False, choices: int = 1) -> SseRelay:
    return SseRelay(include_usage=include_usage, continuous_usage=continuous_usage, choices=choices)


STREAM = b"".join(
    [
        event(chunk("", usage=0)),
        b": a comment\n\n",
        event(chunk('say "usage":{"completion_tokens":99} ü', usage=2)),
        event(chunk("[DONE]", usage=3)),
        event(chunk('"choices":[] and "error":{}', usage=7, finish="stop")),
        event(final(7)),
        DONE,
    ]
)


@pytest.mark.parametrize(("include", "continuous"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_cuts_change_neither_what_the_client_gets_nor_the_count(
    include: bool, continuous: bool, line_end: bytes, cuts: list[int]
) -> None:
    stream = STREAM.replace(b"\n", line_end)
    whole = relay(include_usage=include, continuous_usage=continuous)
    expected = whole.feed(STREAM)
    pieces = relay(include_usage=include, continuous_usage=continuous)
    at = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    got = b"".join(pieces.feed(stream[start:end]) for start, end in itertools.pairwise(at))
    if line_end == b"\r":
        got += pieces.feed(b"\n")
    assert payloads(got) == payloads(expected)
    assert (pieces.tokens, pieces.done, pieces.prompt_tokens) == (7, True, 7)


def test_stream_without_anything_to_remove_passes_unchanged() -> None:
    stream = event(chunk("a")) + b"event: x\nid: 5\n" + event(chunk("b", finish="stop")) + b": ping\n\n" + DONE
    assert relay().feed(stream) == stream


def test_usage_that_the_client_did_not_ask_for_is_removed() -> None:
    got = [json.loads(payload) for payload in payloads(relay().feed(STREAM))]
    assert [each for each in got if "usage" in each] == []
    assert len(got) == 4


def test_usage_of_the_last_chunk_stays_when_asked_for() -> None:
    got = [json.loads(payload) for payload in payloads(relay(include_usage=True).feed(STREAM))]
    assert [each["choices"] for each in got if "usage" in each] == [[]]


def test_stream_with_continuous_usage_passes_unchanged_when_asked_for() -> None:
    assert relay(include_usage=True, continuous_usage=True).feed(STREAM) == STREAM


@pytest.mark.parametrize(
    "value",
    [
        {"usage": {"completion_tokens": 1}, **chunk("a")},
        {**chunk("a"), "usage": {"completion_tokens": 1, "details": {"deep": {"deeper": {"deepest": 1}}}}},
        {**chunk("a"), "usage": None},
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_usage_is_removed_wherever_and_however_it_is_written(
    value: dict[str, Any], separators: tuple[str, str]
) -> None:
    stream = relay()
    got = json.loads(payloads(stream.feed(event(value, separators)))[0])
    assert got == {key: each for key, each in value.items() if key != "usage"}
    assert stream.tokens == 1


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("with_trail", [True, False])
@pytest.mark.parametrize("include", [True, False])
@given(texts=st.lists(st.text(max_size=8) | st.sampled_from(['"finish_reason":null', "\n\n"]), min_size=1, max_size=5))
def test_chunks_as_vllm_writes_them_are_taken_as_any_others(
    chat: bool, with_trail: bool, include: bool, texts: list[str]
) -> None:
    def chunks(separators: tuple[str, str]) -> Iterator[bytes]:
        for number, text in enumerate(texts, start=1):
            said = {"delta": {"content": text}} if chat else {"text": text}
            choice = {"index": 0, **said, "logprobs": None, "finish_reason": None, "stop_reason": None}
            ids: dict[str, Any] = {"prompt_token_ids": None, "token_ids": [number, 7]} if with_trail else {}
            usage = {"prompt_tokens": 7, "completion_tokens": 2 * number, "completion_tokens_details": None}
            yield event({"id": "c", "choices": [choice | ids], "usage": usage}, separators)

    got = []
    for separators in ((",", ":"), (", ", ": ")):
        trail = TokenTrail() if with_trail else None
        stream = SseRelay(include_usage=include, continuous_usage=False, trail=trail)
        out = [json.loads(payload) for chunk in chunks(separators) for payload in payloads(stream.feed(chunk))]
        got.append((out, stream.tokens, stream.finished, trail.last(99) if trail is not None else None))
    usual, other = got
    assert usual == other
    assert usual[1:3] == (2 * len(texts), False)
    assert [("usage" in each, "token_ids" in json.dumps(each)) for each in usual[0]] == [(False, False)] * len(texts)
    if with_trail:
        assert usual[3] == [id_ for number in range(len(texts)) for id_ in (number + 1, 7)]


@given(
    texts=st.lists(st.text(max_size=8), min_size=2, max_size=6),
    ids=st.booleans(),
    odd=st.none() | st.sampled_from([b": a comment\n\n", event(chunk("x", usage=0)), DONE]),
    place=st.integers(0, 6),
)
def test_chunks_that_come_together_are_taken_as_one_by_one(
    texts: list[str], ids: bool, odd: bytes | None, place: int
) -> None:
    def plain(text: str, number: int) -> bytes:
        made = chunk(text, usage=number)
        if ids:
            made["choices"][0] |= {"token_ids": [number]}
        return event(made)

    events = [plain(text, number) for number, text in enumerate(texts, 1)]
    if odd is not None:
        events.insert(place, odd)
    trails = TokenTrail(), TokenTrail()
    together, singly = (
        SseRelay(include_usage=False, continuous_usage=False, trail=trail if ids else None) for trail in trails
    )
    joined = together.feed(b"".join(events))
    assert joined == b"".join([singly.feed(each) for each in events if not singly.failure])
    assert (together.tokens, together.done) == (singly.tokens, singly.done)
    assert str(together.failure) == str(singly.failure)
    assert trails[0].context() == trails[1].context()


def test_several_tokens_in_a_chunk_count_as_many() -> None:
    stream = relay()
    stream.feed(event(chunk("many words", usage=5)))
    assert stream.tokens == 5


def test_chunks_without_usage_count_one_token_each_and_the_last_usage_corrects_upwards() -> None:
    stream = relay()
    for text in ("", "a", "b"):
        stream.feed(event(chunk(text)))
    assert stream.tokens == 2
    stream.feed(event(final(6)) + DONE)
    assert stream.tokens == 6


def test_choices_are_counted_apart_and_added_up() -> None:
    stream = relay(choices=2)
    stream.feed(event(chunk("a", usage=1, index=0)) + event(chunk("b", usage=1, index=1)))
    stream.feed(event(chunk("a", usage=3, index=0)))
    assert stream.tokens == 4
    stream.feed(event(final(4)))
    assert stream.tokens == 4


def test_what_came_before_an_error_of_the_engine_passes() -> None:
    stream = relay()
    assert stream.feed(event(chunk("a")) + event({"error": {"message": "boom"}}) + DONE) == event(chunk("a"))
    assert stream.failure is not None
    assert stream.failure.reported == b'{"message":"boom"}'
    assert not stream.done


@pytest.mark.parametrize("reason", ["abort", "error"])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_request_that_the_engine_gave_up_is_not_finished(reason: str, separators: tuple[str, str]) -> None:
    stream = relay()
    assert stream.feed(event(chunk("a"), separators) + event(chunk("", finish=reason), separators)) != b""
    assert "gave the request up" in str(stream.failure)


@pytest.mark.parametrize("before", [b"", event(chunk("a")), event(chunk("a")) + event(final(1))])
def test_end_without_a_reason_to_finish_is_a_failure(before: bytes) -> None:
    stream = relay()
    stream.feed(before)
    stream.feed(DONE)
    assert (stream.done, stream.finished) == (False, False)
    assert "without a reason to finish" in str(stream.failure)


def test_every_choice_needs_a_reason_to_finish() -> None:
    stream = relay(choices=2)
    stream.feed(event(chunk("a", finish="stop", index=0)) + event(chunk("b", index=1)))
    assert not stream.finished
    stream.feed(event(chunk("", finish="length", index=1)) + DONE)
    assert stream.done


def test_another_engine_goes_on_where_whole_events_ended() -> None:
    stream = relay()
    half = event(chunk("b"))[:-9]
    assert stream.feed(event(chunk("a")) + half) == event(chunk("a"))
    stream.restart()
    assert stream.feed(event(chunk("b", finish="stop")) + DONE) == event(chunk("b", finish="stop")) + DONE
    assert (stream.done, stream.tokens) == (True, 2)


@pytest.mark.parametrize("data", [b"<html>\n\n", b"HTTP/1.1 200 OK\n\n", b"data\n\n"])
def test_what_is_no_event_stream_is_a_failure(data: bytes) -> None:
    stream = relay()
    assert stream.feed(data) == b""
    assert "no event stream" in str(stream.failure)


@pytest.mark.parametrize("data", [b'data: {"error": oops}\n\n', b'data: {"choices":[]\n\n', b"data: [DONE] x\n\n"])
def test_event_that_is_not_json_is_an_error(data: bytes) -> None:
    stream = relay()
    assert stream.feed(data) == b""
    assert "not valid" in str(stream.failure)


def test_text_that_is_not_utf8_is_left_to_the_client() -> None:
    said = b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n'
    stream = relay()
    assert stream.feed(said) == said
    assert stream.tokens == 1


def test_endless_event_is_an_error() -> None:
    stream = relay()
    for _ in range(MAX_EVENT_BYTES // 2**20):
        assert stream.feed(b"x" * 2**20) == b""
    assert stream.feed(b"x") == b""
    assert "larger than" in str(stream.failure)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices": [', b'{"usage": 5}', b'{"usage": "\xff"}'])
def test_whole_reply_that_is_not_one_is_an_error(body: bytes) -> None:
    with pytest.raises(SseError):
        decode_reply(body)
