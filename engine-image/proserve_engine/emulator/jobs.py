"""From an OpenAI request body to what the emulated engine has to do.

The emulator has no tokenizer: token ids are counted exactly, text at `BYTES_PER_TOKEN` bytes a token. The output is
`max_tokens` long where the client says so, else a length drawn from the prompt itself, so that the same prompt always
gets the same answer. What would need a model to answer honestly (several choices, log probabilities) is refused.
"""

import hashlib
import math
from typing import Literal, TypeVar

import msgspec

from proserve_core.clues import NO_CLUES, LengthClues
from proserve_core.facts import FactsError, decode_facts, default_terms
from proserve_core.objectives import ServiceTerms

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
"""What a chat template adds around each message."""
SHORTEST_ANSWER, LONGEST_ANSWER = 16, 256
"""Range of answers whose length the client leaves open, tokens."""


class JobError(Exception):
    """The request can't be served; answered as an OpenAI error."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "invalid_request_error", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One request, understood."""

    chat: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    prompt_tokens: int
    output_tokens: int
    finish_reason: Literal["length", "stop"]
    seed: int
    """Drawn from the prompt: decides the filler text."""
    terms: ServiceTerms
    age_s: float
    """How long the request already waited elsewhere; its deadlines count from then."""
    clues: LengthClues = NO_CLUES


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Body(msgspec.Struct, kw_only=True):
    """Fields that chat and completions share; sampling parameters don't matter without a model and are not read."""

    model: str
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    ignore_eos: bool = False
    logprobs: bool | int | None = None
    vllm_xargs: dict[str, object] | None = None


class _CompletionBody(_Body):
    prompt: str | list[int | str | list[int]]
    best_of: int | None = None
    echo: bool = False


class _TextPart(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_TextPart] | None = None


class _ChatBody(_Body):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    tools: list[object] | None = None


_completion_decoder = msgspec.json.Decoder(_CompletionBody)
_chat_decoder = msgspec.json.Decoder(_ChatBody)


def completion_job(data: bytes, *, model: str, max_model_length: int) -> Job:
    """What `POST /v1/completions` asks for.

    Raises:
        JobError: the body is malformed, asks for something the emulator can't do, or doesn't fit.
    """
    body = _decode(_completion_decoder, data)
    if body.best_of not in (None, 1):
        raise JobError(f"best_of: the emulated engine gives one answer, got {body.best_of}", param="best_of")
    if body.echo:
        raise JobError("echo: not supported by the emulated engine, leave it out", param="echo")
    prompt_tokens, seed = _prompt(body.prompt)
    return _job(
        body, chat=False, model=model, limit=max_model_length, prompt_tokens=prompt_tokens, seed=seed,
        max_tokens=body.max_tokens,
    )  # fmt: skip


def chat_job(data: bytes, *, model: str, max_model_length: int) -> Job:
    """What `POST /v1/chat/completions` asks for.

    Raises:
        JobError: the body is malformed, asks for something the emulator can't do, or doesn't fit.
    """
    body = _decode(_chat_decoder, data)
    if not body.messages:
        raise JobError("messages: expected at least one message", param="messages")
    if body.tools:
        raise JobError("tools: not supported by the emulated engine, leave them out", param="tools")
    texts = [_text(index, message) for index, message in enumerate(body.messages)]
    prompt_tokens = sum(_text_tokens(text) + TOKENS_PER_MESSAGE for text in texts)
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return _job(
        body, chat=True, model=model, limit=max_model_length, prompt_tokens=prompt_tokens,
        seed=_seed("\n".join(texts).encode()), max_tokens=max_tokens,
    )  # fmt: skip


_BodyType = TypeVar("_BodyType", bound=_Body)


def _decode(decoder: "msgspec.json.Decoder[_BodyType]", data: bytes) -> _BodyType:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise JobError(f"request body: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JobError(f"request body is not JSON: {error}") from error


def _job(
    body: _Body, *, chat: bool, model: str, limit: int, prompt_tokens: int, seed: int, max_tokens: int | None
) -> Job:
    if body.model != model:
        raise JobError(
            f"model: {body.model!r} is not served here, the model is {model!r}",
            status=404, kind="not_found_error", param="model",
        )  # fmt: skip
    if body.n not in (None, 1):
        raise JobError(f"n: the emulated engine gives one answer per request, got {body.n}; send n = 1", param="n")
    if body.logprobs not in (None, False):
        raise JobError("logprobs: not supported by the emulated engine, leave them out", param="logprobs")
    if max_tokens is not None and max_tokens < 1:
        raise JobError(f"max_tokens: expected at least 1, got {max_tokens}", param="max_tokens")
    if prompt_tokens >= limit or prompt_tokens + (max_tokens or 0) > limit:
        raise JobError(
            f"max_tokens: {prompt_tokens} prompt tokens and {max_tokens or 1} output tokens are more than the "
            f"maximum length of {limit} tokens",
            param="max_tokens",
        )
    if max_tokens is not None:
        output_tokens = max_tokens
    elif body.ignore_eos:
        output_tokens = limit - prompt_tokens
    else:
        output_tokens = min(SHORTEST_ANSWER + seed % (LONGEST_ANSWER - SHORTEST_ANSWER + 1), limit - prompt_tokens)
    try:
        facts = decode_facts(body.vllm_xargs)
    except FactsError as error:
        raise JobError(str(error), param="vllm_xargs") from error
    options = body.stream_options or _StreamOptions()
    return Job(
        chat=chat,
        stream=body.stream,
        include_usage=options.include_usage,
        continuous_usage=options.include_usage and options.continuous_usage_stats,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        finish_reason="stop" if max_tokens is None and not body.ignore_eos else "length",
        seed=seed,
        terms=facts.terms if facts else default_terms(),
        age_s=facts.age_s if facts else 0.0,
        clues=LengthClues(client=facts.client if facts else "", max_tokens=max_tokens),
    )


def _prompt(prompt: str | list[int | str | list[int]]) -> tuple[int, int]:
    """Token count and seed of a completion's prompt."""
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        return _prompt(prompt[0])  # type: ignore[arg-type]
    if isinstance(prompt, str):
        return _text_tokens(prompt), _seed(prompt.encode())
    if not prompt or not all(isinstance(token, int) for token in prompt):
        raise JobError("prompt: expected one text or one list of token ids per request", param="prompt")
    return len(prompt), _seed(repr(prompt).encode())


def _text(index: int, message: _Message) -> str:
    if isinstance(message.content, list):
        for part in message.content:
            if part.type != "text":
                raise JobError(
                    f"messages[{index}].content: the emulated engine reads text only, got {part.type!r}",
                    param="messages",
                )
        return "".join(part.text for part in message.content)
    return message.content or ""


def _text_tokens(text: str) -> int:
    return max(1, math.ceil(len(text.encode()) / BYTES_PER_TOKEN))


def _seed(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "big")
