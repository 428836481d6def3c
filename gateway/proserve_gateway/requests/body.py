"""The JSON body of an OpenAI request: checked where the gateway needs it, rewritten where the engine must be told.

Only the top level is taken apart; prompts stay the bytes that the client sent, so a long one costs a scan and no
objects. What the gateway does not know passes through and is the engine's to judge. Four things do not pass:
`vllm_xargs` keys of ours (class facts, which would forge a class), `priority` (credentials decide, not the body),
`request_id` (two requests of one id confuse an engine) and `kv_transfer_params` and `ec_transfer_params` (tell an
engine where to fetch KV and encodings from; vLLM looks for them in `vllm_xargs` too). A key that occurs twice reaches
the engine once.
"""

import re
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Raw

from proserve_core.facts import PREFIX
from proserve_gateway.errors import ApiError, invalid_request

CONTROL_FIELDS = frozenset({"priority", "request_id", "kv_transfer_params", "ec_transfer_params"})
KEPT_RESPONSES = ("background", "conversation", "previous_response_id")
"""Fields of the Responses API that name what one engine would have to have kept."""
DEEPEST = 128
"""Levels of lists and objects in a body: JSON readers of engines are recursive."""
MOST = 2**31 - 1
"""Of a count that a client may name: what engines hold in 32 bits."""

MOST_UNASKED_TOKENS = 10**6
"""Of an answer whose length the client leaves open: several times what any model writes."""
MOST_CHOICES = 1024
"""Answers of one request: as many as engines compute at once. What one request is expected to take and to bring is
multiplied by them, so they are also a bound on what it does to the sums of its class."""
GUESSED_TOKENS = 1024
"""By which an engine that computes several tokens at once may go beyond the length that was asked for."""

_fields = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode

_string = msgspec.json.Decoder(str)
_flag = msgspec.json.Decoder(bool | None)
_number = msgspec.json.Decoder(int | float | None)
_object = msgspec.json.Decoder(dict[str, Raw] | None)
_list = msgspec.json.Decoder(list[Raw])
_text_or_list = msgspec.json.Decoder(str | list[Raw])

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
"""Possessive: even in what is no JSON it takes time in proportion."""
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_POSITION = re.compile(r"\(byte (\d+)\)")
_BASE64 = re.compile(rb";base64,[A-Za-z0-9+/=]*")
_TOLD = ("tools", "functions", "documents")
"""What chat templates write into the prompt beside the messages."""
_PAIRED = (("query", "queries", "text_1", "data_1"), ("documents", "items", "text_2", "data_2"))
"""Fields of the two sides that are ranked or scored."""
_USAGE_OPTIONS = b'{"include_usage":true}'
_EXACT_USAGE_OPTIONS = b'{"include_usage":true,"continuous_usage_stats":true}'


class BodyKind(StrEnum):
    """How a route's body is read."""

    CHAT = "chat"
    COMPLETION = "completion"
    RESPONSES = "responses"
    OTHER = "other"
    """Passed through: the model is looked at, and how much there is to compute."""


class RequestBody:
    """A checked body. Cheap to keep for a second attempt: `encode` does not change it."""

    __slots__ = (
        "choices",
        "continuous_usage",
        "fields",
        "include_usage",
        "kind",
        "max_tokens",
        "model",
        "prompt_bytes",
        "prompt_tokens",
        "size",
        "stream",
    )

    def __init__(self, kind: BodyKind, fields: dict[str, Raw]) -> None:
        self.fields = fields
        """Top level as the client sent it. Not to be changed."""
        self.kind = kind
        self.size = 0
        """Bytes of the client's body that it keeps in memory; 0 for one that was made here."""
        model: str | None = _take(fields, "model", _string)
        if not model:
            raise _missing_field("model", "the name of a model, see /v1/models")
        self.model = model
        self.stream: bool = ("stream" in fields and _take(fields, "stream", _flag)) or False
        self.max_tokens: int | None = None
        self.choices = 1
        """Answers that the request asks for: `n` times the number of prompts."""
        self.include_usage = False
        self.continuous_usage = False
        self.prompt_bytes = 0
        """Size of the prompt as JSON."""
        self.prompt_tokens: int | None = None
        """Exact, when the client sent token ids."""
        if "vllm_xargs" in fields:
            _take(fields, "vllm_xargs", _object)
        if kind is BodyKind.RESPONSES:
            self._check_response()
        elif kind is BodyKind.OTHER:
            self._measure_inputs()
        else:
            self._check_generation()

    @property
    def most_output_tokens(self) -> int:
        """Over all choices; an engine that counts more is not believed."""
        if self.max_tokens is None or "best_of" in self.fields:
            return self.choices * MOST_UNASKED_TOKENS
        return self.choices * (self.max_tokens + GUESSED_TOKENS)

    def _check_response(self) -> None:
        fields = self.fields
        for name in KEPT_RESPONSES:
            if name in fields and bytes(fields[name]) not in (b"null", b"false"):
                raise invalid_request(
                    f"{name} is not supported: no responses are kept here, send the whole conversation in `input`",
                    param=name,
                    code="unsupported_parameter",
                )
        if "max_output_tokens" in fields:
            self.max_tokens = _count(fields, "max_output_tokens", least=1)
        if _take(fields, "input", _text_or_list) is None:
            raise _missing_field("input", "a string or a list of items")
        self.prompt_bytes = sum(_size(fields[name]) for name in ("input", "instructions", "tools") if name in fields)

    def _measure_inputs(self) -> None:
        """Of what is embedded, ranked or scored. What no model computes (texts to tokenize) is left out, but for chats:
        they are embedded too. Wrong types are the engine's to judge."""
        fields = self.fields
        for name in ("input", "messages"):
            if name in fields:
                self.prompt_bytes += _size(fields[name])
        if (ids := _items(fields.get("input"))) is not None:
            self.prompt_tokens = _token_ids(ids)
        one, other = (next((fields[name] for name in names if name in fields), None) for names in _PAIRED)
        if one is not None and other is not None:
            # Each of the one side is computed with its partner of the other, or with all if it is alone.
            ones, others = (1 if (found := _items(side)) is None else len(found) for side in (one, other))
            pairs = min(max(ones, others), MOST_CHOICES)
            self.prompt_bytes += _size(one) * (pairs if ones == 1 else 1) + _size(other) * (pairs if others == 1 else 1)

    def _check_generation(self) -> None:
        fields = self.fields
        if "max_tokens" in fields:
            self.max_tokens = _count(fields, "max_tokens", least=0)
        if "max_completion_tokens" in fields:
            newer = _count(fields, "max_completion_tokens", least=0)
            self.max_tokens = self.max_tokens if newer is None else newer
        if "n" in fields:
            count = _count(fields, "n", least=1, most=MOST_CHOICES)
            self.choices = 1 if count is None else count
        if "stream_options" in fields and (options := _take(fields, "stream_options", _object)):
            self.include_usage = _take(options, "include_usage", _flag, "stream_options.") or False
            self.continuous_usage = _take(options, "continuous_usage_stats", _flag, "stream_options.") or False
        self.prompt_bytes = sum(_size(fields[name]) for name in _TOLD if name in fields)
        if self.kind is BodyKind.CHAT:
            messages = _take(fields, "messages", _list)
            if messages is None:
                raise _missing_field("messages", "a list of messages")
            self.prompt_bytes += _size(fields["messages"])
        else:
            prompt = _take(fields, "prompt", _text_or_list)
            if prompt is None:
                if "prompt_embeds" not in fields:
                    raise _missing_field("prompt", "a string, or a list of strings or token ids")
            else:
                self.prompt_bytes += _size(fields["prompt"])
                if isinstance(prompt, list):
                    self.prompt_tokens = _token_ids(prompt)
                    if _first_byte(prompt) in (b"[", b'"'):
                        self.choices *= len(prompt)
        if self.choices > MOST_CHOICES:
            raise invalid_request(
                f"prompt and n ask for {self.choices} answers: at most {MOST_CHOICES}, send several requests",
                param="prompt",
            )

    def encode(self, *, facts: dict[str, str | float] | None, exact_usage: bool, token_ids: bool = False) -> bytes:
        """The body for one engine.

        `facts` are the class facts, None for an engine that is not ours: it may refuse keys it does not know. A stream
        reports its usage in any case, `exact_usage` asks for it on every chunk, which only vLLM understands, and so it
        is with the ids of prompt and output, `token_ids`.
        """
        fields: dict[str, Any] = {key: raw for key, raw in self.fields.items() if key not in CONTROL_FIELDS}
        client_xargs = _object.decode(fields.pop("vllm_xargs")) if "vllm_xargs" in fields else None
        xargs: dict[str, Any] = {k: raw for k, raw in (client_xargs or {}).items() if not _controls(k)}
        if facts is not None and self.kind is not BodyKind.OTHER:
            xargs.update(facts)
        if xargs:
            fields["vllm_xargs"] = xargs
        if self.stream and self.kind in (BodyKind.CHAT, BodyKind.COMPLETION):
            wanted = _EXACT_USAGE_OPTIONS if exact_usage or self.continuous_usage else _USAGE_OPTIONS
            known = fields.get("stream_options")
            options = (_object.decode(known) if known is not None else None) or {}
            fields["stream_options"] = {**options, **_object_of(wanted)} if options else Raw(wanted)
        if token_ids:
            fields["return_token_ids"] = True
        return _encode(fields)


def parse_body(kind: BodyKind, body: bytes) -> RequestBody:
    """Check a request body.

    Raises:
        ApiError: 400; malformed JSON names the position, a wrong type names the field.
    """
    try:
        if not body.isascii():
            body.decode()
        fields = _fields.decode(body)
    except UnicodeDecodeError as error:
        raise invalid_request(
            f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}; send JSON encoded as UTF-8",
            code="invalid_json",
        ) from error
    except msgspec.ValidationError as error:
        raise invalid_request(f"the body must be a JSON object: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.DecodeError as error:
        raise _malformed(body, str(error)) from error
    if body.count(b"[") + body.count(b"{") > DEEPEST and not _is_flat(body):
        raise _too_deep()
    parsed = RequestBody(kind, fields)
    parsed.size = len(body)
    return parsed


def _is_flat(body: bytes) -> bool:
    """Whether valid JSON has at most `DEEPEST` levels: each round takes the innermost one away, at the speed of C."""
    brackets = _STRING.sub(b"", body).translate(_AS_LISTS, _NO_BRACKETS)
    for _ in range(DEEPEST):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return True
    return False


def _too_deep() -> ApiError:
    return invalid_request(
        f"the body has more than {DEEPEST} levels of lists and objects inside each other: send it flatter",
        code="json_too_deep",
    )


def _malformed(body: bytes, message: str) -> ApiError:
    position = _POSITION.search(message)
    if not body.strip():
        where = ": it is empty"
    elif position is None:
        where = f": {message}"
    else:
        at = int(position.group(1))
        line = body.count(b"\n", 0, at) + 1
        column = at - body.rfind(b"\n", 0, at)
        where = f" at byte {at} (line {line}, column {column}): {message}"
    return invalid_request(f"the body is not valid JSON{where}", code="invalid_json")


def _take(fields: dict[str, Raw], name: str, decoder: msgspec.json.Decoder[Any], prefix: str = "") -> Any:
    """Value of a field; None when it is absent."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.ValidationError, RecursionError) as error:
        path = f"{prefix}{name}"
        raise invalid_request(f"{path} has the wrong type: {error}", param=path, code="invalid_type") from error


def _count(fields: dict[str, Raw], name: str, *, least: int, most: int = MOST) -> int | None:
    value: int | float | None = _take(fields, name, _number)
    if isinstance(value, float):
        # 5.0 is an integer to JSON Schema, and some clients write it.
        if not value.is_integer():
            raise invalid_request(
                f"{name} has the wrong type: Expected `int | null`, got `float`", param=name, code="invalid_type"
            )
        value = int(value)
    if value is not None and not least <= value <= most:
        raise invalid_request(f"{name} is {str(value)[:20]}: it must be from {least} to {most}", param=name)
    return value


def _size(raw: Raw) -> int:
    view = memoryview(raw)
    if len(view) > 1024 and b";base64," in (data := bytes(view)):
        # Pictures and sounds are tokens too, but not one per four bytes of base64.
        return len(_BASE64.sub(b"", data))
    return len(view)


def _items(raw: Raw | None) -> list[Raw] | None:
    """Of a list; None: it is none."""
    if raw is None or bytes(memoryview(raw)[:1]) != b"[":
        return None
    return _list.decode(raw)


def _first_byte(items: list[Raw]) -> bytes:
    """Of the first item: tells what they are."""
    return bytes(memoryview(items[0])[:1]) if items else b""


def _token_ids(prompts: list[Raw]) -> int | None:
    """How many tokens a prompt or several of token ids have; None: they are texts."""
    first = _first_byte(prompts)
    if first == b"[":
        return sum(bytes(memoryview(ids)).count(b",") + 1 for ids in prompts)
    return len(prompts) if first.isdigit() else None


def _controls(key: str) -> bool:
    """Whether a key of `vllm_xargs` is not the client's to set."""
    return key.startswith(PREFIX) or key in CONTROL_FIELDS


def _object_of(data: bytes) -> dict[str, Raw]:
    return _object.decode(data) or {}


def _missing_field(name: str, what: str) -> ApiError:
    return invalid_request(f"{name} is missing: it must be {what}", param=name, code="missing_required_parameter")
