"""From an OpenAI request body to what the emulated engine has to do.

The emulator has no tokenizer: token ids are counted exactly, text at `BYTES_PER_TOKEN` bytes a token. The output is
`max_tokens` long where the client says so, else a length drawn from the prompt itself, so that the same prompt always
gets the same answer, and the rest of it when the prompt ends with the answer's first tokens. What would need a model to
answer honestly (several choices, log probabilities) is refused.
"""

import hashlib
from typing import Literal, TypeVar

import msgspec

from proserve_core.clues import NO_CLUES, LengthClues
from proserve_core.facts import FactsError, decode_facts, default_terms
from proserve_core.objectives import ServiceTerms
from proserve_engine.emulator.token_ids import BYTES_PER_TOKEN, detokenize, split_ids, text_bytes

TOKENS_PER_MESSAGE = 4
"""What a chat template adds around each message."""
_TEMPLATE = b"\xfe" * (BYTES_PER_TOKEN * TOKENS_PER_MESSAGE)
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
    prompt: bytes
    """Its tokens, see `token_ids`, without output tokens at its end."""
    said: int
    """Output tokens at the prompt's end: the answer goes on after them."""
    output_tokens: int
    finish_reason: Literal["length", "stop"]
    seed: int
    """Drawn from the prompt: decides the filler text."""
    return_token_ids: bool
    terms: ServiceTerms
    age_s: float
    """How long the request already waited elsewhere; its deadlines count from then."""
    clues: LengthClues = NO_CLUES

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt) // BYTES_PER_TOKEN + self.said


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
    return_token_ids: bool | None = None
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


class _DetokenizeBody(msgspec.Struct):
    model: str
    tokens: list[int]


class _ChatBody(_Body):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    tools: list[object] | None = None


_completion_decoder = msgspec.json.Decoder(_CompletionBody)
_chat_decoder = msgspec.json.Decoder(_ChatBody)
_detokenize_decoder = msgspec.json.Decoder(_DetokenizeBody)


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
    prompt, said = _prompt(body.prompt)
    return _job(
        body, chat=False, model=model, limit=max_model_length, prompt=prompt, said=said, max_tokens=body.max_tokens
    )


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
    prompt = b"".join(_TEMPLATE + text_bytes(_text(index, message)) for index, message in enumerate(body.messages))
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return _job(body, chat=True, model=model, limit=max_model_length, prompt=prompt, said=0, max_tokens=max_tokens)


def detokenize_text(data: bytes, *, model: str) -> str:
    """What `POST /detokenize` asks for.

    Raises:
        JobError: the body is malformed.
    """
    body = _decode(_detokenize_decoder, data)
    _check_model(body.model, model)
    return detokenize(body.tokens)


_BodyType = TypeVar("_BodyType", bound=msgspec.Struct)


def _decode(decoder: "msgspec.json.Decoder[_BodyType]", data: bytes) -> _BodyType:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise JobError(f"request body: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JobError(f"request body is not JSON: {error}") from error


def _check_model(asked: str, model: str) -> None:
    if asked != model:
        raise JobError(
            f"model: {asked!r} is not served here, the model is {model!r}",
            status=404, kind="not_found_error", param="model",
        )  # fmt: skip


def _job(body: _Body, *, chat: bool, model: str, limit: int, prompt: bytes, said: int, max_tokens: int | None) -> Job:
    _check_model(body.model, model)
    prompt_tokens, seed = len(prompt) // BYTES_PER_TOKEN + said, _seed(prompt)
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
        answer = SHORTEST_ANSWER + seed % (LONGEST_ANSWER - SHORTEST_ANSWER + 1)
        output_tokens = min(max(1, answer - said), limit - prompt_tokens)
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
        prompt=prompt,
        said=said,
        output_tokens=output_tokens,
        finish_reason="stop" if max_tokens is None and not body.ignore_eos else "length",
        seed=seed,
        return_token_ids=body.return_token_ids or False,
        terms=facts.terms if facts else default_terms(),
        age_s=facts.age_s if facts else 0.0,
        clues=LengthClues(client=facts.client if facts else "", max_tokens=max_tokens),
    )


def _prompt(prompt: str | list[int | str | list[int]]) -> tuple[bytes, int]:
    """Tokens of a completion's prompt, and the output tokens at its end."""
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        return _prompt(prompt[0])  # type: ignore[arg-type]
    if isinstance(prompt, str):
        return text_bytes(prompt), 0
    ids = [token for token in prompt if isinstance(token, int)]
    if not ids or len(ids) != len(prompt):
        raise JobError("prompt: expected one text or one list of token ids per request", param="prompt")
    return split_ids(ids)


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


def _seed(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "big")
