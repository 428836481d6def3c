"""An engine's event stream on its way to the client: tokens counted, usage removed unless the client asked for it.

The gateway always asks for usage, from vLLM on every chunk (`continuous_usage_stats`), because a chunk may hold any
number of tokens. The usual chunk is not decoded: a quote inside a JSON string is always escaped, so the bytes
`"completion_tokens":` can only be a key. Decoding every chunk would cost about a fifth of its handling. What does not
look usual is decoded, and a stream is complete only when `[DONE]` follows a chunk that gives a reason to finish: a
stream that was cut short must never look complete.
"""

import re

import msgspec

from proserve_gateway.errors import ApiError
from proserve_gateway.relay.sse import (
    DONE,
    EVENT,
    MOST_TOKENS,
    EventSplitter,
    SseError,
    believed,
    decode_event,
    decoded,
    payload_of,
    reported_error,
)
from proserve_gateway.relay.token_trail import TokenTrail

_COUNT = re.compile(rb'"completion_tokens":\s*(\d{1,9})(?!\d)')
_USAGE = re.compile(rb',\s*"usage":\s*(?:null|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content|arguments|refusal)":\s*"(?!")')
_NOT_FINISHED = b'"finish_reason":null'
_PLAIN_END = re.compile(
    _NOT_FINISHED + rb'((?:,"stop_reason":null)?)((?:,"prompt_token_ids":null)?(?:,"token_ids":(?:\[([\d,]+)\]|null))?)'
    rb'\}\],"usage":\{"prompt_tokens":\d+,"total_tokens":\d+,"completion_tokens":(\d{1,9})(?:,[^{}]*)?\}\}\n\n'
)
"""How vLLM ends a chunk of text: what only the gateway asked for is all there."""
_CHUNK = b"data: {"
_EMPTY, _NEAR = b':""', len(':""},"logprobs":null,')
"""An empty text at the end of what comes before the reason to finish. A quote inside a text is always escaped."""
_FINISH = re.compile(rb'"finish_reason":\s*"')
BROKEN_OFF = frozenset({"abort", "error"})
"""Reasons to finish that say that the engine gave up: vLLM's when it is told to stop, SGLang's too."""

NO_DATA = (b":", b"event:", b"id:", b"retry:", b"\n")
"""Beginnings of an event that may be without data: comments, which keep connections open, and fields of the format."""

_any_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class SseRelay:
    """One stream (`Relay`). Feed it what comes from the engine; it returns what goes to the client, in whole events."""

    __slots__ = (
        "_by_choice", "_choices", "_finished", "_keep_all", "_keep_last", "_most", "_splitter", "_strips",
        "_usual_before", "done", "failure", "fresh", "prompt_tokens", "tokens", "trail",
    )  # fmt: skip

    def __init__(
        self,
        *,
        include_usage: bool,
        continuous_usage: bool,
        choices: int = 1,
        most_tokens: int = MOST_TOKENS,
        trail: TokenTrail | None = None,
    ) -> None:
        """`include_usage` and `continuous_usage` are what the client asked for, `most_tokens` of output is the most
        that is believed; `trail` takes the ids of tokens."""
        self._splitter = EventSplitter()
        self._keep_last = include_usage
        self._keep_all = include_usage and continuous_usage
        self._strips = not self._keep_all and choices == 1
        self._choices = choices
        self._most = most_tokens
        self._by_choice: dict[int, int] = {}
        """Output tokens of each of several choices."""
        self.fresh: dict[int, int] | None = {} if choices > 1 else None
        self._finished: set[int] = set()
        """Choices for which a decoded chunk gave a reason to finish."""
        self._usual_before = b""
        """The last chunks that were not decoded: the reason to finish may be in them."""
        self.trail = trail
        self.tokens = 0
        """Output tokens so far, over all choices. Exact where chunks carry usage; else one per chunk with text until
        the final usage corrects it upwards."""
        self.prompt_tokens: int | None = None
        self.done = False
        """`[DONE]` has come: the stream is complete."""
        self.failure: SseError | None = None
        """What is wrong with the event after those that were returned last."""

    def restart(self) -> None:
        """Another engine goes on with the stream: forget half an event and what was wrong."""
        self._splitter = EventSplitter()
        self.failure = None

    @property
    def finished(self) -> bool:
        """The client has got the reason to finish, of every choice: there are no more tokens."""
        return len(self._finished) >= self._choices or (
            self.fresh is None and _FINISH.search(self._usual_before) is not None
        )

    def broken_off(self, failure: ApiError, reported: bytes) -> bytes:
        """See `Relay`."""
        body = failure.body()
        if reported:
            # In the engine's own words.
            body = msgspec.json.encode({"error": msgspec.Raw(reported), "usage": failure.usage})
        return b"data: %s\n\ndata: [DONE]\n\n" % body

    def feed(self, data: bytes) -> bytes:
        """Events that are complete and right, as the client gets them; sets `failure` when the next one is not."""
        if self._strips and not self._splitter.rest and b"\r" not in data:
            if data.find(b"\n") == len(data) - 2:
                at = data.rfind(_NOT_FINISHED)
                if at > 0 and data.startswith(_CHUNK) and (end := _PLAIN_END.fullmatch(data, at)) is not None:
                    return self._plain(data, end)
            elif (plain := self._all_plain(data)) is not None:
                return plain
        try:
            data = self._splitter.whole(data)
        except SseError as error:
            self.failure = error.with_traceback(None)
            return b""
        if not data:
            return b""
        if (
            self.fresh is not None
            or not (data.startswith(b"data: {") and data.endswith(b"}\n\n"))
            or b"[DONE]" in data
            or b'"error"' in data
            or b'"abort"' in data
            or b'"choices":[]' in data
            or b'"choices": []' in data
        ):
            return self._by_event(data)
        return self._usual(data)

    def _all_plain(self, data: bytes) -> bytes | None:
        """Several whole chunks of text as vLLM writes them, brought together by a slow moment: each by itself costs
        less than all in one. None: there is something else among them."""
        *events, rest = data.split(b"\n\n")
        found = []
        for body in events:
            event = body + b"\n\n"
            at = event.rfind(_NOT_FINISHED)
            if (
                rest
                or at < 0
                or b"\n" in body
                or not body.startswith(_CHUNK)
                or (end := _PLAIN_END.fullmatch(event, at)) is None
            ):
                return None
            found.append((event, end))
        out = []
        for event, end in found:
            out.append(self._plain(event, end))
            if self.failure is not None:
                break
        return b"".join(out) if out else None

    def _plain(self, data: bytes, end: "re.Match[bytes]") -> bytes:
        """One chunk of text as vLLM writes it, without looking for anything else: half the time of `_usual`."""
        if (count := int(end[4])) > self.tokens:
            if count > self._most:
                return self._by_event(data)
            self.tokens = count
        self._usual_before = b""
        if self.trail is None:
            return data[: end.end(2)] + b"}]}\n\n"
        at = end.start()
        self.trail.add(data, end[3] or b"", text=data.find(_EMPTY, at - _NEAR, at) < 0)
        return data[: end.end(1)] + b"}]}\n\n"

    def _usual(self, data: bytes) -> bytes:
        out = data
        if not self._keep_all and b'"usage":' in data:
            out = _strip_usage(data)
            if b'"usage":' in out:
                return self._by_event(data)
        at = data.rfind(b'"completion_tokens":')
        if at < 0:
            self.tokens += len(_TEXT.findall(data))
        elif (match := _COUNT.match(data, at)) is None or (count := int(match.group(1))) > self._most:
            return self._by_event(data)
        elif count > self.tokens:
            self.tokens = count
        self._usual_before = data
        return out if self.trail is None else self.trail.take(out)

    def _by_event(self, data: bytes) -> bytes:
        kept = []
        for event in data[:-2].split(b"\n\n"):
            try:
                shown = event if self._keep_all else self._without_usage(event)
                if self._event(event):
                    kept.append(shown if self.trail is None else self.trail.take(shown))
            except SseError as error:
                self.failure = error.with_traceback(None)
                break
            if self.done:
                break
        return b"".join([event + b"\n\n" for event in kept])

    def _event(self, event: bytes) -> bool:
        """Account for one event; False when the client does not get it.

        Raises:
            SseError: it is not as it should be, or tells that the engine failed.
        """
        payload = payload_of(event)
        if payload is None:
            if not event.startswith(NO_DATA):
                raise SseError("this is no event stream", quoted=repr(event[:100].decode(errors="replace")))
            return True
        if payload == DONE:
            if not self.finished:
                raise SseError("it ended its stream without a reason to finish")
            self.done = True
            return True
        chunk = decode_event(payload)
        if (reported := bytes(chunk.error)) not in (b"", b"null"):
            raise reported_error(reported)
        usage = chunk.usage
        if usage is not None and usage.prompt_tokens:
            self.prompt_tokens = usage.prompt_tokens
        count = usage.completion_tokens if usage is not None else None
        if count is not None:
            believed(count, self._most)
        if not chunk.choices:
            if self.fresh is not None:
                self._share((count or 0) - self.tokens)
            self.tokens = max(self.tokens, count or 0)
            return self._keep_last or usage is None
        if (reason := chunk.choices[0].finish_reason) is not None:
            if reason in BROKEN_OFF:
                raise SseError(f"it gave the request up (finish_reason {reason})")
            self._finished.add(chunk.choices[0].index)
        if self.fresh is not None:
            self._of_choice(chunk.choices[0].index, count, payload)
        elif count is None:
            self.tokens += bool(_TEXT.search(payload))
        else:
            self.tokens = max(self.tokens, count)
        return True

    def _of_choice(self, index: int, count: int | None, payload: bytes) -> None:
        """Tokens of one of several choices."""
        if not 0 <= index < self._choices:
            raise SseError(f"it has a choice {index} where {self._choices} were asked for")
        before = self._by_choice.get(index, 0)
        more = bool(_TEXT.search(payload)) if count is None else max(0, count - before)
        believed(self.tokens + more, self._most)
        self._more(index, more)
        self.tokens += more

    def _share(self, more: int) -> None:
        """The usage at the end knows of tokens that no chunk told: each choice had as many of them as any other."""
        share, rest = divmod(max(0, more), self._choices)
        for index in range(min(self._choices, more)):
            self._more(index, share + (index < rest))

    def _more(self, index: int, tokens: int) -> None:
        if self.fresh is not None and tokens:
            self._by_choice[index] = self._by_choice.get(index, 0) + tokens
            self.fresh[index] = self.fresh.get(index, 0) + tokens

    def _without_usage(self, event: bytes) -> bytes:
        """The event without the usage that only we asked for; the final chunk's stays when the client wants it."""
        payload = payload_of(event)
        if payload is None or b'"usage":' not in payload:
            return event
        fields = decoded(_any_object, payload, EVENT)
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
