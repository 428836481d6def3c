"""Between `proserve.v1` messages and the OpenAI JSON that engines speak.

A call becomes the JSON body that an HTTP client would have sent and takes the same way from there, so both protocols
have one set of checks and one dispatch core.
"""

import math

import msgspec
from google.protobuf.message import DecodeError

from proserve_gateway.errors import engine_failure, invalid_request
from proserve_gateway.relay.sse import SseError, TokenCount, decoded
from proserve_gateway.requests.body import BodyKind
from proserve_gateway.rpc import inference_pb2 as pb


class _Text(msgspec.Struct, frozen=True):
    """A chat message or delta."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The older name of `reasoning`."""


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: _Text | None = None
    message: _Text | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: TokenCount | None = None
    completion_tokens: TokenCount | None = None


class _Reply(msgspec.Struct, frozen=True):
    """A whole reply or one event of a stream."""

    choices: list[_Choice] = []
    usage: _Usage | None = None


_reply = msgspec.json.Decoder(_Reply)

PATHS = {BodyKind.CHAT: "/v1/chat/completions", BodyKind.COMPLETION: "/v1/completions"}


def parse_request(data: bytes) -> pb.GenerateRequest:
    """Read the message.

    Raises:
        ApiError: 400, the bytes are not a GenerateRequest.
    """
    try:
        return pb.GenerateRequest.FromString(data)
    except DecodeError as error:
        raise invalid_request(
            "the message is not a proserve.v1.GenerateRequest: compile the client with our inference.proto",
            code="invalid_message",
        ) from error


def request_body(request: pb.GenerateRequest, *, stream: bool) -> tuple[BodyKind, bytes]:
    """Route and JSON body of a call.

    Raises:
        ApiError: 400, the message names the field.
    """
    fields: dict[str, object] = {"model": request.model, **_sampling(request.sampling)}
    match request.WhichOneof("input"):
        case "prompt":
            kind, fields["prompt"] = BodyKind.COMPLETION, request.prompt
        case "token_ids":
            if not request.token_ids.ids:
                raise invalid_request("token_ids.ids is empty: send at least one token", param="token_ids.ids")
            kind, fields["prompt"] = BodyKind.COMPLETION, list(request.token_ids.ids)
        case "chat":
            kind, fields["messages"] = BodyKind.CHAT, _messages(request.chat)
        case _:
            raise invalid_request(
                "input is missing: set one of prompt, chat and token_ids", param="input", code="missing_input"
            )
    if stream:
        fields["stream"] = True
        fields["stream_options"] = {"include_usage": True}
    return kind, msgspec.json.encode(fields)


def _messages(chat: pb.Chat) -> list[dict[str, str]]:
    if not chat.messages:
        raise invalid_request("chat.messages is empty: send at least one message", param="chat.messages")
    for index, message in enumerate(chat.messages):
        if not message.role:
            path = f"chat.messages[{index}].role"
            raise invalid_request(f"{path} is missing: use 'system', 'user' or 'assistant'", param=path)
    return [{"role": message.role, "content": message.content} for message in chat.messages]


def _sampling(sampling: pb.Sampling) -> dict[str, object]:
    fields: dict[str, object] = {}
    for field, value in sampling.ListFields():
        if isinstance(value, float) and not math.isfinite(value):
            path = f"sampling.{field.name}"
            raise invalid_request(f"{path} is {value}: it must be a finite number", param=path)
        fields[field.name] = list(value) if field.name == "stop" else value
    return fields


def response(body: bytes, served: pb.Served) -> pb.GenerateResponse:
    """The message for a whole reply.

    Raises:
        ApiError: 502, the engine's reply has no answer.
    """
    reply = _decode(body)
    if not reply.choices:
        raise engine_failure(f"engine {served.engine} sent a reply without choices")
    text, reasoning = _text(reply.choices[0])
    return pb.GenerateResponse(
        text=text,
        reasoning=reasoning,
        finish_reason=reply.choices[0].finish_reason or "",
        usage=_usage(reply.usage),
        served=served,
    )


def chunk(data: list[bytes], *, tokens: int, served: pb.Served | None) -> pb.GenerateChunk | None:
    """One message for the data of events that came together, `tokens` output tokens; None when nothing is in them.

    Raises:
        ApiError: 502, an event is not what OpenAI's events are.
    """
    texts: list[str] = []
    thoughts: list[str] = []
    finish_reason, usage = "", None
    for payload in data:
        event = _decode(payload)
        for choice in event.choices:
            text, reasoning = _text(choice)
            texts.append(text)
            thoughts.append(reasoning)
            finish_reason = choice.finish_reason or finish_reason
        usage = event.usage or usage
    made = pb.GenerateChunk(
        text="".join(texts),
        reasoning="".join(thoughts),
        tokens=tokens,
        finish_reason=finish_reason,
        usage=_usage(usage),
        served=served,
    )
    return made if made.ByteSize() else None


def check_reply(payload: bytes) -> _Reply:
    """A whole reply or the data of an event, as far as messages tell it.

    Raises:
        SseError: they can't.
    """
    return decoded(_reply, payload, "the engine's answer")


def _decode(payload: bytes) -> _Reply:
    try:
        return check_reply(payload)
    except SseError as error:
        raise engine_failure(str(error)) from error


def _text(choice: _Choice) -> tuple[str, str]:
    said = choice.delta or choice.message
    if said is None:
        return choice.text or "", ""
    return said.content or "", said.reasoning or said.reasoning_content or ""


def _usage(usage: _Usage | None) -> pb.Usage | None:
    if usage is None or usage.completion_tokens is None:
        return None
    return pb.Usage(prompt_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)
