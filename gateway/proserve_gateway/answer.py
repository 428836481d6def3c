"""An engine's answer on its way to the client: every token judged as it passes, every end accounted for.

Tokens are judged on the clock that stamped the arrival. A stream that fails after it has begun ends with an explicit
error event.
"""

from collections.abc import Callable

from proserve_core.gain import LossCause
from proserve_gateway.accounting import Entry
from proserve_gateway.dispatch_errors import failed_answer
from proserve_gateway.errors import ApiError, engine_failure
from proserve_gateway.fleet import Lease, Outcome
from proserve_gateway.sse import SseError, SseRelay
from proserve_gateway.upstream_connection import Exchange, FailureKind, UpstreamError


class Answer:
    """What the engine answers, as it comes. Read it to the end or `close()` it."""

    __slots__ = (
        "_clock",
        "_entry",
        "_exchange",
        "_lease",
        "_on_prompt",
        "_relay",
        "answered_s",
        "content_type",
        "ended",
        "engine",
        "failure",
        "first",
        "sent_s",
        "status",
        "streams",
    )

    def __init__(
        self,
        *,
        exchange: Exchange,
        lease: Lease,
        entry: Entry,
        clock: Callable[[], float],
        relay: SseRelay | None,
        sent_s: float,
        on_prompt: Callable[[int], None],
    ) -> None:
        self._exchange = exchange
        self._lease = lease
        self._entry = entry
        self._clock = clock
        self._relay = relay
        self._on_prompt = on_prompt
        self.engine = lease.endpoint.name
        self.status = exchange.status
        self.content_type = exchange.header(b"content-type") or b"application/json"
        self.streams = relay is not None
        self.first = b""
        """What has come already: the whole body unless the answer streams."""
        self.sent_s = sent_s
        """When the request went to the engine."""
        self.answered_s = 0.0
        """When the first of the answer was here."""
        self.ended = False
        self.failure: ApiError | None = None
        """Why the stream broke off, once it has: for protocols that end with a status instead of an event."""

    @property
    def tokens(self) -> int:
        """Output tokens so far."""
        return self._entry.account.tokens

    async def read(self) -> bytes:
        """The next whole events of a stream, after `first`; b"" at its end.

        Never raises for an engine's failure: the stream then ends with an error event and `[DONE]`.
        """
        while not self.ended:
            try:
                data = await self._exchange.read()
                if not data:
                    raise SseError("the engine ended its stream without [DONE]")
                events = self.take(data)
            except (UpstreamError, SseError) as error:
                return self._break_off(error)
            if events:
                return events
        return b""

    def take(self, data: bytes) -> bytes:
        """Account for a piece of the stream; returns what the client gets of it."""
        relay = self._relay
        if relay is None:
            raise AssertionError("only streams are taken in pieces")
        before = relay.tokens
        events = relay.feed(data)
        if (count := relay.tokens - before) > 0:
            self._entry.tokens(self._clock(), count)
            self._lease.on_tokens(count)
        if relay.done:
            self._end_of_stream(relay)
        return events

    def close(self) -> None:
        """The client is gone; nothing happens when the answer has ended."""
        if not self.ended:
            self.ended = True
            self._exchange.abort()
            self._lease.close(Outcome.CANCELLED)
            self._entry.close(LossCause.CLIENT_CANCEL)

    def _end_of_stream(self, relay: SseRelay) -> None:
        self.ended = True
        if relay.error is not None:
            what = f"error in the stream: {relay.error[:200].decode(errors='replace')}"
            self.failure = engine_failure(f"engine {self.engine}: {what}")
            self._lease.close(Outcome.FAILED, what)
            self._entry.close(LossCause.ENGINE_FAILURE, status=self.failure.status)
            return
        if relay.prompt_tokens is not None:
            self._on_prompt(relay.prompt_tokens)
        self._lease.close(Outcome.ANSWERED)
        self._entry.close(prompt_tokens=relay.prompt_tokens)

    def _break_off(self, error: UpstreamError | SseError) -> bytes:
        """End the stream with an error that nobody can take for its natural end."""
        self.ended = True
        self._exchange.abort()
        failure = self.failure = failed_answer(self.engine, error)
        stalled = isinstance(error, UpstreamError) and error.kind is FailureKind.STALLED
        ours = isinstance(error, UpstreamError) and error.kind is FailureKind.STOPPED
        self._lease.close(Outcome.CANCELLED if stalled or ours else Outcome.FAILED, str(error))
        self._entry.close(LossCause.CLIENT_CANCEL if stalled else LossCause.ENGINE_FAILURE, status=failure.status)
        return b"data: %s\n\ndata: [DONE]\n\n" % failure.body()
