"""Messages become the OpenAI JSON that means the same, and back."""

import json

import pytest

from proserve_gateway.errors import ApiError
from proserve_gateway.grpc.convert import chunk, parse_request, request_body, response
from proserve_gateway.relay.sse import payloads
from proserve_gateway.requests.body import BodyKind
from proserve_gateway.rpc import inference_pb2 as pb

SERVED = pb.Served(request_id="r", priority_class="high", engine="chat-0")


def body(request: pb.GenerateRequest, *, stream: bool = False) -> dict[str, object]:
    made: dict[str, object] = json.loads(request_body(request, stream=stream)[1])
    return made


def refused(request: pb.GenerateRequest) -> ApiError:
    with pytest.raises(ApiError) as caught:
        request_body(request, stream=False)
    assert caught.value.status == 400
    return caught.value


def test_prompt_becomes_a_completion() -> None:
    request = pb.GenerateRequest(model="tiny", prompt="Once")
    assert request_body(request, stream=False)[0] is BodyKind.COMPLETION
    assert body(request) == {"model": "tiny", "prompt": "Once"}


def test_token_ids_become_a_completion() -> None:
    request = pb.GenerateRequest(model="tiny", token_ids=pb.TokenIds(ids=[1, 2, 3]))
    assert body(request) == {"model": "tiny", "prompt": [1, 2, 3]}


def test_chat_becomes_a_chat_completion() -> None:
    messages = [pb.ChatMessage(role="system", content="Be brief."), pb.ChatMessage(role="user", content="Grüß dich")]
    request = pb.GenerateRequest(model="tiny", chat=pb.Chat(messages=messages))
    assert request_body(request, stream=False)[0] is BodyKind.CHAT
    assert body(request)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüß dich"},
    ]


def test_only_what_is_set_is_sent_and_zero_counts_as_set() -> None:
    sampling = pb.Sampling(max_tokens=5, temperature=0.0, seed=-1, stop=["\n", "END"], ignore_eos=True)
    request = pb.GenerateRequest(model="tiny", prompt="x", sampling=sampling)
    assert body(request) == {
        "model": "tiny",
        "prompt": "x",
        "max_tokens": 5,
        "temperature": 0.0,
        "seed": -1,
        "stop": ["\n", "END"],
        "ignore_eos": True,
    }


def test_stream_asks_for_usage() -> None:
    made = body(pb.GenerateRequest(model="tiny", prompt="x"), stream=True)
    assert (made["stream"], made["stream_options"]) == (True, {"include_usage": True})


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (pb.GenerateRequest(model="tiny"), "input"),
        (pb.GenerateRequest(model="tiny", chat=pb.Chat()), "chat.messages"),
        (
            pb.GenerateRequest(model="tiny", chat=pb.Chat(messages=[pb.ChatMessage(content="x")])),
            "chat.messages[0].role",
        ),
        (pb.GenerateRequest(model="tiny", token_ids=pb.TokenIds()), "token_ids.ids"),
        (
            pb.GenerateRequest(model="tiny", prompt="x", sampling=pb.Sampling(temperature=float("nan"))),
            "sampling.temperature",
        ),
        (pb.GenerateRequest(model="tiny", prompt="x", sampling=pb.Sampling(top_p=float("inf"))), "sampling.top_p"),
    ],
)
def test_what_makes_no_sense_is_named(request_: pb.GenerateRequest, param: str) -> None:
    error = refused(request_)
    assert error.param == param
    assert error.message.startswith(param)


def test_bytes_that_are_no_message_are_the_clients_error() -> None:
    with pytest.raises(ApiError, match=r"not a proserve\.v1\.GenerateRequest") as caught:
        parse_request(b"\xff\xff\xff")
    assert caught.value.status == 400


def test_chat_reply_becomes_a_response() -> None:
    reply = {
        "choices": [
            {"index": 0, "message": {"content": "Hi", "reasoning_content": "greet"}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
    made = response(json.dumps(reply).encode(), SERVED)
    assert (made.text, made.reasoning, made.finish_reason) == ("Hi", "greet", "stop")
    assert (made.usage.prompt_tokens, made.usage.output_tokens) == (7, 2)
    assert made.served.engine == "chat-0"


def test_completion_reply_becomes_a_response() -> None:
    made = response(b'{"choices":[{"text":"upon","finish_reason":"length"}]}', SERVED)
    assert (made.text, made.finish_reason, made.HasField("usage")) == ("upon", "length", False)


@pytest.mark.parametrize("reply", [b'{"choices":[]}', b"{}", b"[]", b'{"choices":[{"text":5}]}', b"<html>"])
def test_reply_without_an_answer_is_the_engines_failure(reply: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        response(reply, SERVED)
    assert caught.value.status == 502


def test_events_that_came_together_become_one_chunk() -> None:
    events = (
        b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"one "}}]}\n\n'
        b": keep-alive\n\n"
        b'data: {"choices":[{"delta":{"content":"two"},"finish_reason":"stop"}]}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
        b"data: [DONE]\n\n"
    )
    made = chunk(payloads(events), tokens=2, served=SERVED)
    assert made is not None
    assert (made.text, made.tokens, made.finish_reason, made.usage.output_tokens) == ("one two", 2, "stop", 2)


def test_events_with_nothing_in_them_make_no_chunk() -> None:
    assert chunk([b'{"choices":[{"text":""}]}'], tokens=0, served=None) is None
