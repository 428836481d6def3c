"""The life of a request after it was understood, the same for HTTP and gRPC: choose, send, pass through, account.

A request that was accepted ends in one of three ways: its full answer, an explicit error, or the client's own cancel.
While nothing of the answer has been given to the client, a failed engine is replaced once by another; after that the
failure becomes an error event in the stream. Every token is judged when it passes here, on the clock that stamped the
arrival.
"""

import asyncio
import logging
from collections.abc import Callable

from proserve_core.facts import encode_facts
from proserve_core.gain import LossCause
from proserve_core.objectives import ServiceTerms
from proserve_core.routing import RoutingRequest
from proserve_gateway.accounting import Accounting, Entry
from proserve_gateway.dispatch_errors import failed_answer, failed_request, refusal
from proserve_gateway.errors import ApiError, engine_failure
from proserve_gateway.fleet import Fleet, Lease, Outcome
from proserve_gateway.prompt_estimate import PromptEstimator
from proserve_gateway.request_body import BodyKind, RequestBody
from proserve_gateway.sse import SseError, SseRelay, decode_reply
from proserve_gateway.upstream import UpstreamClient, request_head
from proserve_gateway.upstream_connection import Exchange, FailureKind, UpstreamError

logger = logging.getLogger(__name__)

MAX_REPLY_BYTES = 64 * 2**20
"""Of a reply that is not streamed."""
ATTEMPTS = 2
TOO_BUSY = 429
"""An engine's answer that is about the engine and not about the request: another one may have room."""
_RETRIED = frozenset({FailureKind.CONNECT, FailureKind.CLOSED, FailureKind.TRUNCATED, FailureKind.PROTOCOL})


class InferenceRequest:
    """A request that passed authentication and checks."""

    __slots__ = ("arrival_s", "body", "id", "path", "pool", "tenant", "terms")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 the domain's word
        arrival_s: float,
        terms: ServiceTerms,
        tenant: str,
        pool: str,
        path: str,
        body: RequestBody,
    ) -> None:
        self.id = id
        """Of the gateway's own making; the engine gets it as `x-request-id`."""
        self.arrival_s = arrival_s
        """When the headers were here."""
        self.terms = terms
        self.tenant = tenant
        self.pool = pool
        self.path = path
        """Route at the engine."""
        self.body = body


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


class Dispatcher:
    """Sends requests to engines and accounts for what comes back."""

    def __init__(
        self, *, fleet: Fleet, accounting: Accounting, upstream: UpstreamClient, clock: Callable[[], float]
    ) -> None:
        self._fleet = fleet
        self._accounting = accounting
        self._upstream = upstream
        self._clock = clock
        self._prompts = PromptEstimator()

    async def answer(self, request: InferenceRequest) -> Answer:
        """Run the request until the first of its answer is here: the whole reply, or the first events of a stream.

        Cancel the caller when the client leaves; after the return that is `Answer.close()`.

        Raises:
            ApiError: no engine took it, or the engine refused it.
        """
        body = request.body
        entry = self._accounting.open(
            terms=request.terms,
            tenant=request.tenant,
            model=body.model,
            arrival_s=request.arrival_s,
            max_tokens=body.max_tokens,
            choices=body.choices,
            generates=body.kind is not BodyKind.OTHER,
        )
        try:
            return await self._attempts(request, self._routing_request(request, entry.expected_tokens), entry)
        except asyncio.CancelledError:
            entry.close(LossCause.CLIENT_CANCEL)
            raise
        except ApiError as error:
            if error.status == TOO_BUSY:
                entry.close(LossCause.SHED, status=error.status)
            elif error.status < 500:
                entry.refuse(error.status)
            else:
                entry.close(LossCause.ENGINE_FAILURE, status=error.status)
            raise
        except Exception as error:
            logger.exception("request %s: a fault of the gateway", request.id)
            entry.close(LossCause.ENGINE_FAILURE, status=500)
            raise ApiError(
                status=500,
                code="internal_error",
                error_type="server_error",
                message=f"the gateway made a mistake with request {request.id}; its log says which",
            ) from error

    def _routing_request(self, request: InferenceRequest, expected_tokens: float) -> RoutingRequest:
        body = request.body
        return RoutingRequest(
            id=request.id,
            arrival_s=request.arrival_s,
            terms=request.terms,
            prompt_tokens=body.prompt_tokens or self._prompts.estimate(request.pool, body.prompt_bytes),
            expected_output_tokens=expected_tokens,
        )

    async def _attempts(self, request: InferenceRequest, routing: RoutingRequest, entry: Entry) -> Answer:
        tried: frozenset[str] = frozenset()
        failure: ApiError | None = None
        for _ in range(ATTEMPTS):
            try:
                lease = self._fleet.choose(request.pool, routing, tried)
            except ApiError as error:
                # What went wrong on the first engine says more than that there is no second one.
                raise failure or error from None
            try:
                return await self._attempt(request, lease, entry)
            except UpstreamError as error:
                lease.close(Outcome.CANCELLED if error.kind is FailureKind.STOPPED else Outcome.FAILED, str(error))
                failure = failed_request(lease.endpoint.name, error)
                if error.kind not in _RETRIED:
                    break
            except SseError as error:
                lease.close(Outcome.FAILED, str(error))
                failure = engine_failure(f"engine {lease.endpoint.name} failed: {error}")
            except ApiError as error:
                lease.close(Outcome.ANSWERED if error.status < 500 else Outcome.FAILED, error.message)
                if error.status < 500 and error.status != TOO_BUSY:
                    raise
                failure = error
            except BaseException:
                lease.close(Outcome.CANCELLED)
                raise
            tried |= {lease.endpoint.name}
        raise failure or AssertionError

    async def _attempt(self, request: InferenceRequest, lease: Lease, entry: Entry) -> Answer:
        """One engine. Leaves the lease open when it raises.

        Raises:
            UpstreamError: the exchange failed.
            SseError: what came is not an answer.
            ApiError: the engine answered with an error status.
        """
        endpoint, body, clock = lease.endpoint, request.body, self._clock
        sent_s = clock()
        generates = body.kind is not BodyKind.OTHER
        data = body.encode(
            facts=(
                encode_facts(request.terms, max(0.0, sent_s - request.arrival_s), request.tenant)
                if endpoint.has_capacity
                else None
            ),
            exact_usage=endpoint.has_capacity,
        )
        head = b"%sx-request-id: %s\r\n" % (request_head(endpoint, "POST", request.path), request.id.encode())
        exchange = await self._upstream.request(endpoint, head, data)
        try:
            if exchange.status != 200:
                raise refusal(
                    endpoint.name, exchange.status, exchange.headers, await exchange.read_all(MAX_REPLY_BYTES)
                )
            streams = (exchange.header(b"content-type") or b"").startswith(b"text/event-stream")
            relay = (
                SseRelay(include_usage=body.include_usage, continuous_usage=body.continuous_usage, choices=body.choices)
                if streams
                else None
            )
            answer = Answer(
                exchange=exchange,
                lease=lease,
                entry=entry,
                clock=clock,
                relay=relay,
                sent_s=sent_s,
                on_prompt=lambda tokens: self._prompts.learn(request.pool, body.prompt_bytes, tokens),
            )
            if relay is None:
                answer.first = await exchange.read_all(MAX_REPLY_BYTES)
                answer.answered_s = clock()
                self._account_reply(answer.first, request, lease, entry, generates=generates)
                answer.ended = True
            else:
                await self._first_events(answer, exchange)
        except BaseException:
            exchange.abort()
            raise
        return answer

    async def _first_events(self, answer: Answer, exchange: Exchange) -> None:
        """Hold the answer back until it has begun: until then another engine can take over."""
        while not answer.first and not answer.ended:
            data = await exchange.read()
            if not data:
                raise SseError("it ended its stream before the first event")
            answer.answered_s = self._clock()
            answer.first = answer.take(data)

    def _account_reply(
        self, data: bytes, request: InferenceRequest, lease: Lease, entry: Entry, *, generates: bool
    ) -> None:
        """All tokens of a reply that is not streamed are judged when it is here: that is when the client gets them."""
        reply = decode_reply(data)
        prompt_tokens = None
        if reply.usage is not None:
            prompt_tokens = reply.usage.prompt_tokens
            count = reply.usage.completion_tokens or 0
            if generates and count > 0:
                entry.tokens(self._clock(), count)
                lease.on_tokens(count)
            if prompt_tokens:
                self._prompts.learn(request.pool, request.body.prompt_bytes, prompt_tokens)
        lease.close(Outcome.ANSWERED)
        entry.close(prompt_tokens=prompt_tokens)
