"""Which output tokens the text comes from that a client has, so that another engine can go on right behind it.

An engine with stop strings holds back as many characters as may turn out to be the beginning of one, so the text of a
chunk is not that of its tokens. But a chunk that brings text tells how much its tokens and those before have said: what
was sent by then, and the characters that are held back. What `/detokenize` says of the tokens can't be counted
instead: it writes special tokens out, which streams leave out.
"""

import re
from collections import deque

import msgspec

_TEXT = re.compile(rb'"(?:text|content)":\s*("(?:[^"\\]|\\.)*")')
_string = msgspec.json.Decoder(str)


class SentText:
    """Text of one stream, over all engines that take part in it. Ends of chunks are places in the trail of ids."""

    __slots__ = ("_at", "_chunks", "_said", "_sent", "kept", "part", "readable", "whole_end")

    def __init__(self, kept: int) -> None:
        self.kept = kept
        """Characters that are held back."""
        self.whole_end = 0
        """End of the last chunk all of whose text was sent."""
        self.part = ""
        """What was sent of the text after it."""
        self.readable = True
        """All text so far was valid JSON."""
        self._said = 0
        """Characters that tokens have said up to `whole_end`."""
        self._sent = 0
        """Characters in all."""
        self._at = 0
        """End of the last chunk."""
        self._chunks: deque[tuple[int, int, int]] = deque()
        """Of chunks with text after `whole_end`: begin, end, and characters that were said by then."""

    def add(self, events: bytes, end: int) -> None:
        """A chunk is sent, and the last id of its tokens is at `end`."""
        begin, self._at = self._at, end
        try:
            text = "".join([_string.decode(found) for found in _TEXT.findall(events)])
        except (msgspec.DecodeError, UnicodeDecodeError):
            # The client's to judge, as all that is not looked into.
            self.readable, text = False, ""
        if not text:
            return
        # With the first text nobody knows how much of it the chunks before have said.
        self._chunks.append((begin if self._sent else 0, end, self._sent + len(text) + self.kept))
        self._sent += len(text)
        while self._chunks and self._chunks[0][2] <= self._sent:
            _, self.whole_end, self._said = self._chunks.popleft()
        count = self._sent - self._said
        self.part = (self.part + text)[-count:] if count else ""

    @property
    def bounds(self) -> tuple[int, int]:
        """Of the chunk that has said what was sent last: its tokens are to be kept, and what follows can be generated
        anew. Without tokens if that is at `whole_end`, or its tokens were forgotten."""
        return self._chunks[0][:2] if self.part and self._chunks else (self.whole_end, self.whole_end)

    def held_in(self, text: str) -> str | None:
        """What was held back of the text of that chunk; None: it is not `text`, that of all or some of its tokens."""
        count = self._chunks[0][2] - self._said
        return text[len(self.part) :] if len(text) == count and text.startswith(self.part) else None

    def go_on(self, end: int) -> None:
        """The ids behind `end` are forgotten, and other tokens follow."""
        chunks = self._chunks
        self._chunks = deque([(chunks[0][0], end, chunks[0][2])] if end > self.whole_end else [])
        self.whole_end, self._at = min(self.whole_end, end), end
