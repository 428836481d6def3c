"""OpenAI's event streams as a format: whole events out of pieces, and what accounting reads of an event.

`data: {json}` and an empty line, `data: [DONE]` at the end, usage in a last chunk without choices.
"""

from typing import Annotated, TypeVar

import msgspec

MAX_EVENT_BYTES = 16 * 2**20
MOST_TOKENS = 10**8
"""Of one request, prompt or output: beyond any context times any number of choices. Quotas and gain add counts up."""
DONE = b"[DONE]"
REPLY, EVENT = "the engine's reply", "an event of the engine's stream"

T = TypeVar("T")


class SseError(Exception):
    """The engine's stream breaks the conventions, or tells of an error; the message says how."""

    def __init__(self, message: str, *, quoted: str = "", reported: bytes = b"", refusal: bool = False) -> None:
        super().__init__(f"{message}: {quoted}" if quoted else message)
        self.plain = message
        """Without what the engine said, which may hold parts of the prompt or the answer."""
        self.reported = reported
        """The engine's own error object, when it sent one."""
        self.refusal = refusal
        """The error is about the request (4xx), so another engine would say the same."""


class FaultError(SseError):
    """The gateway itself could not deal with what came, so what it has taken note of is not to be built on."""


TokenCount = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class Usage(msgspec.Struct, frozen=True):
    """Token counts as engines report them."""

    prompt_tokens: TokenCount | None = None
    completion_tokens: TokenCount | None = None


class Choice(msgspec.Struct, frozen=True):
    index: int = 0
    finish_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """What accounting needs of an event, or of a whole reply that is not streamed."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()
    """Empty without one; a union of `Raw` and None would accept only null."""


class _Reported(msgspec.Struct):
    code: int | str | None = None


_chunk = msgspec.json.Decoder(Chunk)
_reported = msgspec.json.Decoder(_Reported)


def decoded(decoder: msgspec.json.Decoder[T], data: bytes | str, what: str) -> T:
    """JSON that an engine wrote. All that may be wrong with it is looked for here.

    Raises:
        SseError: it is no such JSON; `what` names it.
    """
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SseError(f"{what} is not valid: {error}") from error


def decode_reply(body: bytes) -> Chunk:
    """Read a reply that is not streamed.

    Raises:
        SseError: it is not a JSON object as OpenAI's replies are.
    """
    return decoded(_chunk, body, REPLY)


def decode_event(data: bytes) -> Chunk:
    """Read the data of an event.

    Raises:
        SseError: it is not a JSON object as OpenAI's chunks are.
    """
    return decoded(_chunk, data, EVENT)


def believed(tokens: int, most: int) -> int:
    """The number of output tokens that an engine reports of a request that allows `most`.

    Raises:
        SseError: it is more, and gain and quotas would be of tokens that never were.
    """
    if tokens > most:
        raise SseError(f"it counts {tokens} output tokens where {most} are the most that there can be")
    return tokens


def reported_error(error: bytes) -> SseError:
    """What an error object in a stream means."""
    said = error.decode(errors="replace")
    try:
        code = decoded(_reported, said, EVENT).code
    except SseError:
        code = None
    refusal = isinstance(code, int) and 400 <= code < 500
    return SseError("error in the stream", quoted=said[:200], reported=said.encode(), refusal=refusal)


class EventSplitter:
    """Makes whole events of a stream that comes in pieces, with plain line ends."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of an event."""

    def whole(self, data: bytes) -> bytes:
        """The events that are complete; the beginning of another one is kept.

        Raises:
            SseError: an event is too large.
        """
        if self.rest:
            data = self.rest + data
            self.rest = b""
        if b"\r" in data:
            held = b"\r" if data.endswith(b"\r") else b""
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if held:
                # It may be half of a line end.
                data, self.rest = data[:-1], held
        if data.endswith(b"\n\n"):
            return data
        cut = data.rfind(b"\n\n") + 2
        if cut < 2:
            cut = 0
        self.rest = data[cut:] + self.rest
        if len(self.rest) > MAX_EVENT_BYTES:
            raise SseError(f"an event of the engine's stream is larger than {MAX_EVENT_BYTES} bytes")
        return data[:cut]


def payloads(events: bytes) -> list[bytes]:
    """The data of whole events, for readers that do not speak SSE; `[DONE]` is left out."""
    found = (payload_of(event) for event in events.split(b"\n\n"))
    return [payload for payload in found if payload is not None and payload != DONE]


def payload_of(event: bytes) -> bytes | None:
    """Data of an event; None when it has none (comments, keep-alives)."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
