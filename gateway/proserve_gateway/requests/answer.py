"""An engine's answer on its way to the client: every token judged as it passes, every end accounted for.

It is a context manager, because whoever passes it on may fail too: the end is booked as what it was.

Tokens are judged on the clock that stamped the arrival. A stream whose engine fails after it has begun is continued on
another engine where that is possible; where it is not, it ends with an explicit error event.
"""

import copy
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from proserve_core.gain import LossCause
from proserve_gateway.errors import ApiError
from proserve_gateway.fleet.lease import Outcome
from proserve_gateway.relay.continuation import CannotContinueError, Continuation, Leg, Result
from proserve_gateway.relay.relay import Relay
from proserve_gateway.relay.sse import FaultError, SseError
from proserve_gateway.requests.attempts import BAD_STREAM, Attempts
from proserve_gateway.requests.dispatch_errors import failed_answer, gateway_fault, plain
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.seeing.accounting import Entry
from proserve_gateway.upstream.exchange import FailureKind, UpstreamError

_ENDED_BY = {
    FailureKind.TOTAL_TIMEOUT: Result.TOTAL_TIMEOUT,
    FailureKind.STALLED: Result.CLIENT_STALLED,
    FailureKind.STOPPED: Result.SHUTDOWN,
}
"""Failures that are not the engine's, so that another one would not do better."""


class Books(Protocol):
    """What answers report beside their account."""

    def prompt_counted(self, request: InferenceRequest, tokens: int) -> None:
        """The engine told the prompt's length."""

    def stream_broke(self, request: InferenceRequest, result: Result, message: str) -> None:
        """What became of a stream whose engine failed."""


class Answer:
    """What the engine answers, as it comes. Enter it, and read it to the end."""

    __slots__ = (
        "_attempts", "_books", "_clock", "_continuation", "_entry", "_leg", "_prompt_tokens", "_relay", "_request",
        "answered_s", "content_type", "ended", "engine", "failure", "first", "sent_s", "status",
    )  # fmt: skip

    def __init__(
        self,
        *,
        leg: Leg,
        entry: Entry,
        clock: Callable[[], float],
        relay: Relay | None,
        continuation: Continuation | None,
        sent_s: float,
        request: InferenceRequest,
        attempts: Attempts,
        books: Books,
    ) -> None:
        """`relay` and `continuation` are a stream's."""
        self._leg = leg
        self._entry = entry
        self._clock = clock
        self._relay = relay
        self._continuation = continuation
        self._request = request
        self._attempts = attempts
        self._books = books
        self.engine = leg.lease.endpoint.name
        """Where it began."""
        self.status = leg.exchange.status
        self.content_type = leg.exchange.header(b"content-type") or b"application/json"
        self.first = b""
        """What has come already: the whole body unless the answer streams."""
        self.sent_s = sent_s
        """When the request went to the engine."""
        self.answered_s = 0.0
        """When the first of the answer was here."""
        self.ended = False
        self._prompt_tokens: int | None = None
        self.failure: ApiError | None = None
        """Why the stream broke off, once it has: for protocols that end with a status instead of an event."""

    @property
    def streams(self) -> bool:
        return self._relay is not None

    @property
    def tokens(self) -> int:
        """Output tokens so far."""
        return self._entry.account.tokens

    async def begin(self) -> None:
        """Wait for the first events of a stream: until then another engine can take the whole request.

        Raises:
            UpstreamError: the exchange failed.
            SseError: what comes is not an answer.
        """
        relay = self._stream()
        while not self.first and not self.ended:
            if relay.failure is not None:
                raise copy.copy(relay.failure)
            data = await self._leg.exchange.read()
            if not data:
                raise SseError("it ended its stream before the first event")
            self.answered_s = self._clock()
            events = self._take(relay, data)
            if b"data:" in events:
                # Comments before it are not worth an answer that no other engine can give any more.
                self.first = events

    async def read(self) -> bytes:
        """The next whole events of a stream, after `first`; b"" at its end.

        Never raises for an engine's failure: a stream that can't be continued ends with an error event and `[DONE]`.
        """
        while not self.ended:
            relay = self._stream()
            try:
                if relay.failure is not None:
                    raise copy.copy(relay.failure)
                data = await self._leg.exchange.read()
                if not data:
                    raise SseError("it ended its stream before the answer was complete")
                events = self._take(relay, data)
            except (UpstreamError, SseError) as error:
                events = await self._go_on(relay, error)
            if events:
                return events
        return b""

    async def pass_on(self, write: Callable[[bytes], bool]) -> None:
        """Give the events of a stream to `write` as they come, until it ends or `write` returns False. What `read` does
        for one, without a task that is woken for each."""
        relay, leg = self._stream(), self._leg
        goes_on = True

        def take(data: bytes) -> bool:
            nonlocal goes_on
            if events := self._take(relay, data):
                goes_on = write(events)
            return goes_on and not self.ended and relay.failure is None

        if leg.events is None and relay.failure is None:
            await leg.exchange.pump(take)
        if goes_on and (events := await self.read()):
            # The end, or what another engine goes on with.
            write(events)

    def on_stall(self, cut: Callable[[], object]) -> None:
        """Call `cut` when the client has taken nothing of this engine's answer for too long, while it is waited for."""
        self._leg.exchange.on_stall = cut

    @property
    def stalled(self) -> bool:
        failure = self._leg.exchange.failure
        return failure is not None and failure.kind is FailureKind.STALLED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """It was passed on, or it was not: booked as that.

        Raises:
            ApiError: 500, whoever passed it on made a mistake.
        """
        held_up = self.stalled or self._leg.exchange.paused
        self._leg.exchange.abort()
        if self.failure is None and isinstance(error, ApiError):
            self._unreadable(error)
        elif self.failure is None and isinstance(error, Exception):
            raise self._not_passed_on(error) from error
        elif self.ended:
            self._entry.close(prompt_tokens=self._prompt_tokens)
        else:
            if self.stalled:
                self._books.stream_broke(self._request, Result.CLIENT_STALLED, "the client took nothing for too long")
            else:
                self._attempts.abandoned()
            self._leg.lease.close(Outcome.CANCELLED)
            # The client is gone. What was late by then is not its fault, unless it did not take what there was.
            self._entry.close(LossCause.CLIENT_CANCEL, late_s=None if held_up else self._clock())
        self.ended = True

    def _unreadable(self, error: ApiError) -> None:
        """The client's protocol can't tell what the engine sent."""
        self._attempts.failed(self._leg.lease.endpoint.name, BAD_STREAM, plain(error))
        self._attempts.gave_up(error)
        self._leg.lease.close(Outcome.FAILED, plain(error))
        self._entry.close(LossCause.ENGINE_FAILURE, status=error.status)

    def _not_passed_on(self, error: Exception) -> ApiError:
        fault = gateway_fault(self._request.id, error)
        self._books.stream_broke(self._request, Result.FAULT, str(fault))
        self._attempts.gave_up(fault)
        self._leg.lease.close(Outcome.CANCELLED)
        self._entry.close(LossCause.ENGINE_FAILURE, status=fault.status)
        return fault

    def whole(self, body: bytes, *, tokens: int, prompt_tokens: int | None) -> None:
        """The answer does not stream, and this is all of it."""
        self.first = body
        self.answered_s = self._clock()
        self._leg.lease.worked(self.answered_s)
        if tokens > 0:
            self._entry.tokens(self.answered_s, tokens)
            self._leg.lease.on_tokens(tokens, self.answered_s)
        self._end(prompt_tokens)

    def _stream(self) -> Relay:
        if self._relay is None:
            raise AssertionError("only streams are read in pieces")
        return self._relay

    def _take(self, relay: Relay, data: bytes) -> bytes:
        """Account for a piece of the stream; returns what the client gets of it."""
        leg = self._leg
        before = relay.tokens
        try:
            if leg.events is not None:
                data = leg.events.feed(data)
            events = relay.feed(data)
        except SseError:
            raise
        except Exception as error:  # noqa: BLE001 - logged, and the client is told
            relay.failure, events = self._fault(error), b""
        if (count := relay.tokens - before) > 0:
            now_s = self._clock()
            self._entry.tokens(now_s, count, relay.fresh)
            leg.lease.on_tokens(count, now_s)
        if relay.done:
            if leg.events is not None and leg.events.stopped:
                leg.exchange.abort()
            self._end(relay.prompt_tokens)
        return events

    def _end(self, prompt_tokens: int | None) -> None:
        self.ended, self._prompt_tokens = True, prompt_tokens
        if prompt_tokens:
            self._books.prompt_counted(self._request, prompt_tokens)
        self._leg.lease.close(Outcome.ANSWERED)
        if self._relay is None:
            # Before its headers are written: they tell what is left of the tenant's quotas.
            self._entry.close(prompt_tokens=prompt_tokens)

    async def _go_on(self, relay: Relay, error: UpstreamError | SseError) -> bytes:
        """Let another engine take over, or end the stream; returns what the client gets of that."""
        leg, engine, attempts = self._leg, self._leg.lease.endpoint.name, self._attempts
        leg.exchange.abort()
        continuation = self._continuation
        if continuation is None:
            raise AssertionError("a stream can be continued or says why not")
        try:
            if (ended_by := _ended_by(error)) is not None:
                raise CannotContinueError(ended_by, plain(error))
            if isinstance(error, SseError) and error.reported:
                attempts.doubt(leg.lease, plain(error))
            else:
                leg.lease.close(Outcome.FAILED, plain(error))
            attempts.failed(engine, error.kind if isinstance(error, UpstreamError) else BAD_STREAM, plain(error))
            if relay.tokens > leg.tokens_before:
                attempts.went_well(engine)
            relay.restart()
            end = continuation.missing_end(relay, self.first)
            if end is not None:
                self._books.stream_broke(self._request, Result.ONLY_END_MISSING, engine)
                self._leg.events = None
                return self._take(relay, end)
            self._leg = await continuation.next_leg(relay, self.first)
        except CannotContinueError as ending:
            self._books.stream_broke(self._request, ending.result, f"{engine}: {plain(error)}; {ending}")
            return self._break_off(relay, engine, error)
        except Exception as mistake:  # noqa: BLE001 - as above
            fault = self._fault(mistake)
            self._books.stream_broke(self._request, Result.FAULT, f"{engine}: {plain(error)}; {fault}")
            return self._break_off(relay, engine, fault)
        self._leg.exchange.on_stall = leg.exchange.on_stall
        where = f"{engine} -> {self._leg.lease.endpoint.name} after {relay.tokens} tokens"
        self._books.stream_broke(self._request, Result.CONTINUED, where)
        return b""

    def _fault(self, error: Exception) -> FaultError:
        """The client gets an error and no other engine is asked: what was noted of the stream may be wrong. Before its
        first event nothing was, and another engine can take the request."""
        return FaultError(str(gateway_fault(self._request.id, error)))

    def _break_off(self, relay: Relay, engine: str, error: UpstreamError | SseError) -> bytes:
        """End the stream with an error that nobody can take for its natural end."""
        self.ended = True
        failure = self.failure = failed_answer(engine, error)
        self._attempts.gave_up(failure)
        prompt_tokens = relay.prompt_tokens or (relay.trail.prompt_tokens if relay.trail is not None else 0)
        failure.usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": relay.tokens,
            "total_tokens": prompt_tokens + relay.tokens,
        }
        ended_by = _ended_by(error)
        self._leg.lease.close(Outcome.FAILED if ended_by is None else Outcome.CANCELLED, plain(error))
        cause = LossCause.CLIENT_CANCEL if ended_by is Result.CLIENT_STALLED else LossCause.ENGINE_FAILURE
        self._entry.close(cause, status=failure.status)
        return relay.broken_off(failure, error.reported if isinstance(error, SseError) else b"")


def _ended_by(error: UpstreamError | SseError) -> Result | None:
    """Why no other engine would do better; None: it may."""
    if isinstance(error, FaultError):
        return Result.FAULT
    if isinstance(error, SseError):
        return Result.REFUSED if error.refusal else None
    return _ENDED_BY.get(error.kind)
