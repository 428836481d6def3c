"""A stream of OpenAI's Responses API: typed events that end with `response.completed`, and no `[DONE]`.

Every event reaches the client byte by byte. A delta counts as one token, and the usage in the last event corrects the
sum upwards. What an engine knows of a response beside its tokens (items, calls, reasoning) can't be told to another
engine, so a stream that breaks ends with an error event.
"""

import msgspec

from proserve_gateway.errors import ApiError
from proserve_gateway.relay.sse import (
    DONE,
    EVENT,
    REPLY,
    EventSplitter,
    SseError,
    TokenCount,
    believed,
    decoded,
    payload_of,
    reported_error,
)
from proserve_gateway.relay.sse_relay import NO_DATA
from proserve_gateway.relay.token_trail import TokenTrail

COMPLETE = frozenset({"response.completed", "response.incomplete"})
"""Ends of a response; `incomplete` is what a length limit makes of it."""
BROKEN = frozenset({"response.failed", "error"})


class ResponseUsage(msgspec.Struct, frozen=True):
    """Token counts of a response."""

    input_tokens: TokenCount | None = None
    output_tokens: TokenCount | None = None


class Response(msgspec.Struct, frozen=True):
    """What accounting needs of a response."""

    status: str | None = None
    usage: ResponseUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct, frozen=True):
    type: str
    sequence_number: int | None = None
    response: Response | None = None
    error: msgspec.Raw = msgspec.Raw()


_event = msgspec.json.Decoder(_Event)
_response = msgspec.json.Decoder(Response)


def decode_response(body: bytes) -> Response:
    """Read a reply that is not streamed.

    Raises:
        SseError: it is not as OpenAI's responses are, or tells that the engine gave up.
    """
    response = decoded(_response, body, REPLY)
    if response.status in ("failed", "cancelled"):
        raise SseError(f"it gave the request up (status {response.status})")
    return response


class ResponsesRelay:
    """One stream (`Relay`)."""

    __slots__ = ("_most", "_number", "_splitter", "done", "failure", "fresh", "prompt_tokens", "tokens", "trail")

    def __init__(self, *, most_tokens: int) -> None:
        """`most_tokens` of output is the most that is believed."""
        self._most = most_tokens
        self._splitter = EventSplitter()
        self._number = 0
        """Of the last event."""
        self.trail: TokenTrail | None = None
        self.tokens = 0
        self.fresh: dict[int, int] | None = None
        self.prompt_tokens: int | None = None
        self.done = False
        self.failure: SseError | None = None

    @property
    def finished(self) -> bool:
        """The end is in the same event as the reason for it, so it is never all that is missing."""
        return False

    def restart(self) -> None:
        """See `Relay`."""
        self._splitter = EventSplitter()
        self.failure = None

    def feed(self, data: bytes) -> bytes:
        """See `Relay`."""
        try:
            data = self._splitter.whole(data)
        except SseError as error:
            self.failure = error.with_traceback(None)
            return b""
        kept = []
        for event in data[:-2].split(b"\n\n") if data else ():
            try:
                self._read(event)
            except SseError as error:
                self.failure = error.with_traceback(None)
                break
            kept.append(event + b"\n\n")
            if self.done:
                break
        return b"".join(kept)

    def _read(self, event: bytes) -> None:
        payload = payload_of(event)
        if payload is None:
            if not event.startswith(NO_DATA):
                raise SseError("this is no event stream")
            return
        if payload == DONE:
            raise SseError("it ended its stream without a completed response")
        read = decoded(_event, payload, EVENT)
        if read.sequence_number is not None:
            self._number = read.sequence_number
        if read.type.endswith(".delta"):
            self.tokens += 1
        elif read.type in BROKEN:
            reported = bytes(read.error) or bytes(read.response.error if read.response is not None else b"")
            raise reported_error(reported if reported not in (b"", b"null") else payload)
        elif read.type in COMPLETE:
            if read.response is not None and (usage := read.response.usage) is not None:
                self.tokens = max(self.tokens, believed(usage.output_tokens or 0, self._most))
                self.prompt_tokens = usage.input_tokens
            self.done = True

    def broken_off(self, failure: ApiError, reported: bytes) -> bytes:
        """See `Relay`; `error` is there twice because OpenAI's own events and its clients differ in where it is."""
        error = {"type": failure.error_type, "code": failure.code, "message": failure.message, "param": failure.param}
        body = {
            "type": "error",
            "code": failure.code,
            "message": failure.message,
            "param": failure.param,
            "sequence_number": self._number + 1,
            "error": msgspec.Raw(reported) if reported else error,
            "usage": failure.usage,
        }
        return b"event: error\ndata: %s\n\n" % msgspec.json.encode(body)
