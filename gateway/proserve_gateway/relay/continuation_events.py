"""What a second engine sends, made into the rest of the first one's stream.

The client sees one stream: one id, creation time and kind of object, usage of the whole, one reason to finish. Engines
are replaced rarely, so each event is decoded and built anew here.
"""

from typing import Any

import msgspec

from proserve_gateway.relay.sse import DONE, EVENT, EventSplitter, SseError, decoded, payload_of, payloads
from proserve_gateway.relay.stop_strings import StopStrings


class Envelope(msgspec.Struct, frozen=True):
    """What all chunks of a stream have in common."""

    id: str
    object: str
    created: int
    model: str


class _Choice(msgspec.Struct, frozen=True):
    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class _Usage(msgspec.Struct, frozen=True):
    completion_tokens: int = 0


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_chunk = msgspec.json.Decoder(_Chunk)
_envelope = msgspec.json.Decoder(Envelope)


def envelope_of(events: bytes) -> Envelope | None:
    """The envelope of a stream by its first events; None when they have none."""
    for payload in payloads(events):
        try:
            return decoded(_envelope, payload, EVENT)
        except SseError:
            continue
    return None


class ContinuedEvents:
    """One engine's completion stream as the rest of another stream."""

    def __init__(
        self, *, envelope: Envelope, chat: bool, prompt_tokens: int, sent_tokens: int, stops: StopStrings | None
    ) -> None:
        """`prompt_tokens` of the original prompt; `sent_tokens`: output tokens that the engine got with its prompt."""
        self._splitter = EventSplitter()
        self._envelope = msgspec.structs.asdict(envelope)
        self._chat = chat
        self._prompt_tokens = prompt_tokens
        self._sent_tokens = sent_tokens
        self._stops = stops
        self.stopped = False
        """A stop string ended the stream before the engine did."""

    def feed(self, data: bytes) -> bytes:
        """The events that are complete now.

        Raises:
            SseError: an event is not what it should be.
        """
        events = b"" if self.stopped else self._splitter.whole(data)
        out = b""
        for event in events[:-2].split(b"\n\n") if events else ():
            payload = payload_of(event)
            out += event + b"\n\n" if payload is None or payload == DONE else self._rebuilt(payload)
            if self.stopped:
                break
        return out

    def closing(self, tokens: int) -> bytes:
        """The end of a stream of `tokens` output tokens."""
        return self._event([], tokens) + b"data: [DONE]\n\n"

    def _rebuilt(self, payload: bytes) -> bytes:
        chunk = decoded(_chunk, payload, EVENT)
        if bytes(chunk.error) not in (b"", b"null"):
            return b"data: " + payload + b"\n\n"
        if chunk.usage is None:
            raise SseError("the engine's stream has a chunk without usage")
        tokens = self._sent_tokens + chunk.usage.completion_tokens
        if not chunk.choices:
            return self._event([], tokens)
        said = chunk.choices[0]
        text, stop = said.text, None
        if self._stops is not None:
            text, stop = self._stops.feed(text, last=said.finish_reason is not None)
        if stop is None:
            return self._event([self._choice(text, said)], tokens)
        self.stopped = True
        ended = msgspec.structs.replace(said, finish_reason="stop", stop_reason=stop)
        return self._event([self._choice(text, ended)], tokens) + self.closing(tokens)

    def _choice(self, text: str, said: _Choice) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": text}} if self._chat else {"text": text}
        choice |= {"logprobs": None, "finish_reason": said.finish_reason}
        if said.finish_reason is not None:
            choice["stop_reason"] = said.stop_reason
        choice["token_ids"] = said.token_ids
        return choice

    def _event(self, choices: list[dict[str, Any]], tokens: int) -> bytes:
        usage = {
            "prompt_tokens": self._prompt_tokens,
            "total_tokens": self._prompt_tokens + tokens,
            "completion_tokens": tokens,
        }
        return b"data: %s\n\n" % msgspec.json.encode({**self._envelope, "choices": choices, "usage": usage})
