"""The token ids of a stream, kept so that another engine can go on from them; taken out of what the client gets.

vLLM's `return_token_ids` puts the prompt's ids into the first chunk and the new tokens' ids into every one. They are
kept as the digits they come in, about five bytes a token, and read only when they are needed. A quote inside a JSON
string is always escaped, so the bytes `"token_ids":` can only be a key.
"""

import re

from proserve_gateway.relay.sent_text import SentText

_FIELD = re.compile(rb',\s*"(prompt_)?token_ids":\s*(?:\[([\d,\s]*)\]|null)')
_IDS = re.compile(rb"(?:,\s*\d{1,10}\s*)*")
_REASONING = re.compile(rb'"reasoning(?:_content)?":\s*"')
_SOME_TEXT = re.compile(rb'"(?:text|content)":\s*"[^"]')
_EMPTY = b':""'
_USUAL, _NO_PROMPT = b',"token_ids":[', b',"prompt_token_ids":null'


class TokenTrail:
    """Ids of one stream, over all engines that take part in it."""

    __slots__ = ("_output", "dropped", "has_reasoning", "prompt", "sent")

    def __init__(self, kept: int = 0) -> None:
        """`kept`: characters that the engine holds back because they may begin a stop string."""
        self.prompt = b""
        """The prompt's ids as a JSON list without its brackets."""
        self._output = bytearray()
        self.dropped = 0
        """Output tokens that were forgotten, to be generated anew."""
        self.has_reasoning = False
        """The engine told reasoning from content: only it knows how."""
        self.sent = SentText(kept)

    def take(self, events: bytes) -> bytes:
        """Keep the ids of whole events; returns the events without them."""
        if self.sent.kept and b"\n\n" in events[:-2]:
            # Several at once would be known by the text of all only.
            return b"".join([self.take(event + b"\n\n") for event in events[:-2].split(b"\n\n")])
        rest = self._without_ids(events)
        self._saw(events, text=_EMPTY not in events or _SOME_TEXT.search(events) is not None)
        return rest

    def _without_ids(self, events: bytes) -> bytes:
        at = events.find(_USUAL)
        if at >= 0 and self.prompt:
            end = events.find(b"]", at)
            head, rest = events[:at].removesuffix(_NO_PROMPT), events[end + 1 :]
            if b'token_ids"' not in head and b'token_ids"' not in rest:
                self._append(events[at + len(_USUAL) : end])
                return head + rest
        if b'token_ids"' not in events:
            return events
        return _FIELD.sub(self._keep, events)

    def _keep(self, found: "re.Match[bytes]") -> bytes:
        ids = found[2]
        if ids and found[1]:
            self.prompt = ids
        elif ids:
            self._append(ids)
        return b""

    def add(self, event: bytes, ids: bytes, *, text: bool) -> None:
        """Keep the ids that were found in an event; `text`: it has some."""
        self._append(ids)
        self._saw(event, text=text)

    def _saw(self, events: bytes, *, text: bool) -> None:
        if self.sent.kept:
            self.sent.add(events, len(self._output))
        elif text:
            self.sent.whole_end = len(self._output)
        if b'"reasoning' in events and _REASONING.search(events):
            self.has_reasoning = True

    def _append(self, ids: bytes) -> None:
        if ids:
            self._output += b","
            self._output += ids

    @property
    def told(self) -> bool:
        """Whether the engine told ids of prompt and output, and they are numbers."""
        ids = (b"," + self.prompt, self._output)
        return bool(self.prompt) and all(_IDS.fullmatch(each) is not None for each in ids)

    @property
    def prompt_tokens(self) -> int:
        return self.prompt.count(b",") + 1 if self.prompt else 0

    @property
    def output_tokens(self) -> int:
        return self._output.count(b",")

    def context(self) -> bytes:
        """Ids of the prompt and of all output as one JSON list."""
        return b"[%s%s]" % (self.prompt, self._output)

    def last(self, count: int, *, before: int | None = None) -> list[int]:
        """Ids of the last output tokens, at most `count`, of all or of those before a place."""
        return _ids(self._output[:before])[-count:]

    def since(self, place: int) -> list[int]:
        """Ids of the output tokens from a place on."""
        return _ids(self._output[place:])

    @property
    def end(self) -> int:
        """Place behind the last id."""
        return len(self._output)

    def drop_last(self) -> None:
        """Forget the last output token."""
        self.drop_behind(self._output.rindex(b","))

    def drop_behind(self, end: int) -> None:
        """Forget the output tokens from this place on."""
        self.dropped += self._output.count(b",", end)
        del self._output[end:]


def _ids(output: bytearray) -> list[int]:
    return [int(id_) for id_ in output.split(b",")[1:]]
