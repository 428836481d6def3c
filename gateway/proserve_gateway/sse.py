"""The engine's event stream on its way to the client: tokens counted, usage removed unless the client asked for it.

OpenAI's conventions: `data: {json}` and an empty line, `data: [DONE]` at the end, usage in a last chunk without
choices. The gateway always asks for usage, from vLLM on every chunk (`continuous_usage_stats`), because a chunk may
hold any number of tokens. The usual chunk is not decoded: a quote inside a JSON string is always escaped, so the bytes
`"completion_tokens":` can only be a key. Decoding every chunk would cost about a fifth of its handling.
"""

import re

import msgspec

MAX_EVENT_BYTES = 16 * 2**20

_COUNT = re.compile(rb'"completion_tokens":\s*(\d+)')
_USAGE = re.compile(rb',\s*"usage":\s*(?:null|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content|arguments|refusal)":\s*"(?!")')


class SseError(Exception):
    """The engine's stream breaks the conventions; the message says how."""


class Usage(msgspec.Struct, frozen=True):
    """Token counts as engines report them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Choice(msgspec.Struct, frozen=True):
    index: int = 0


class Chunk(msgspec.Struct, frozen=True):
    """What accounting needs of an event, or of a whole reply that is not streamed."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()
    """Empty without one; a union of `Raw` and None would accept only null."""


_chunk = msgspec.json.Decoder(Chunk)
_any_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_reply(body: bytes) -> Chunk:
    """Read a reply that is not streamed.

    Raises:
        SseError: it is not a JSON object as OpenAI's replies are.
    """
    try:
        return _chunk.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SseError(f"the engine's reply is not valid: {error}") from error


class SseRelay:
    """One stream. Feed it what comes from the engine; it returns what goes to the client, in whole events."""

    __slots__ = ("_by_choice", "_keep_all", "_keep_last", "_rest", "done", "error", "prompt_tokens", "tokens")

    def __init__(self, *, include_usage: bool, continuous_usage: bool, choices: int = 1) -> None:
        """`include_usage` and `continuous_usage` are what the client asked for."""
        self._rest = b""
        self._keep_last = include_usage
        self._keep_all = include_usage and continuous_usage
        self._by_choice: dict[int, int] | None = {} if choices > 1 else None
        self.tokens = 0
        """Output tokens so far, over all choices. Exact where chunks carry usage; else one per chunk with text until
        the final usage corrects it upwards."""
        self.prompt_tokens: int | None = None
        self.done = False
        """`[DONE]` has come: the stream is complete."""
        self.error: bytes | None = None
        """The engine reported an error in its stream."""

    def feed(self, data: bytes) -> bytes:
        """Events that are complete now, as the client gets them.

        Raises:
            SseError: an event is not what it should be.
        """
        data = self._whole_events(data)
        if not data:
            return b""
        if (
            self._by_choice is not None
            or b"[DONE]" in data
            or b'"error":' in data
            or b'"choices":[]' in data
            or b'"choices": []' in data
        ):
            return self._by_event(data)
        return self._usual(data)

    def _whole_events(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if b"\r" in data:
            held = b"\r" if data.endswith(b"\r") else b""
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if held:
                # It may be half of a line end.
                data, self._rest = data[:-1], held
        if data.endswith(b"\n\n"):
            return data
        cut = data.rfind(b"\n\n") + 2
        if cut < 2:
            cut = 0
        self._rest = data[cut:] + self._rest
        if len(self._rest) > MAX_EVENT_BYTES:
            raise SseError(f"an event of the engine's stream is larger than {MAX_EVENT_BYTES} bytes")
        return data[:cut]

    def _usual(self, data: bytes) -> bytes:
        out = data
        if not self._keep_all and b'"usage":' in data:
            out = _strip_usage(data)
            if b'"usage":' in out:
                return self._by_event(data)
        at = data.rfind(b'"completion_tokens":')
        if at < 0:
            self.tokens += len(_TEXT.findall(data))
        elif (match := _COUNT.match(data, at)) is not None and (count := int(match.group(1))) > self.tokens:
            self.tokens = count
        return out

    def _by_event(self, data: bytes) -> bytes:
        kept = [event for event in data[:-2].split(b"\n\n") if self._event(event)]
        if not kept:
            return b""
        out = b"\n\n".join(kept) + b"\n\n"
        if self._keep_all or b'"usage":' not in out:
            return out
        return b"".join(self._without_usage(event) + b"\n\n" for event in kept)

    def _event(self, event: bytes) -> bool:
        """Account for one event; False when the client does not get it."""
        payload = _payload(event)
        if payload is None:
            return True
        if payload == b"[DONE]":
            self.done = True
            return True
        try:
            chunk = _chunk.decode(payload)
        except (msgspec.DecodeError, RecursionError) as error:
            raise SseError(f"an event of the engine's stream is not valid: {error}") from error
        if (reported := bytes(chunk.error)) not in (b"", b"null"):
            self.error = reported
            return True
        usage = chunk.usage
        if usage is not None and usage.prompt_tokens:
            self.prompt_tokens = usage.prompt_tokens
        count = usage.completion_tokens if usage is not None else None
        if not chunk.choices:
            self.tokens = max(self.tokens, count or 0)
            return self._keep_last or usage is None
        if count is None:
            self.tokens += bool(_TEXT.search(payload))
        elif self._by_choice is None:
            self.tokens = max(self.tokens, count)
        else:
            self._by_choice[chunk.choices[0].index] = count
            self.tokens = max(self.tokens, sum(self._by_choice.values()))
        return True

    def _without_usage(self, event: bytes) -> bytes:
        """The event without the usage that only we asked for; the final chunk's stays when the client wants it."""
        payload = _payload(event)
        if payload is None or b'"usage":' not in payload:
            return event
        fields = _any_object.decode(payload)
        if self._keep_last and bytes(fields.get("choices", msgspec.Raw(b""))).replace(b" ", b"") == b"[]":
            return event
        fields.pop("usage", None)
        return b"data: " + msgspec.json.encode(fields)


def _strip_usage(data: bytes) -> bytes:
    """`data` without usage after other fields; one that comes first in its event stays and is left to the caller."""
    at = data.find(b',"usage":{')
    end = data.find(b"}", at)
    if at >= 0 and data[end:] == b"}}\n\n":
        # As vLLM writes a chunk: usage is flat and last. A third of the regular expression's time.
        return data[:at] + b"}\n\n"
    return _USAGE.sub(b"", data)


def payloads(events: bytes) -> list[bytes]:
    """The data of whole events, for readers that do not speak SSE; `[DONE]` is left out."""
    found = (_payload(event) for event in events.split(b"\n\n"))
    return [payload for payload in found if payload is not None and payload != b"[DONE]"]


def _payload(event: bytes) -> bytes | None:
    """Data of an event; None when it has none (comments, keep-alives)."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
