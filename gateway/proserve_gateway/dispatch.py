"""The life of a request once it was understood, the same for HTTP and gRPC: choose an engine, send, hand its answer on.

A request that was accepted ends in one of three ways: its full answer, an explicit error, or the client's own cancel.
While nothing of the answer has been given to the client, a failed engine is replaced once by another; after that the
failure becomes an error event in the stream.
"""

import asyncio
import logging
from collections.abc import Callable

from proserve_core.facts import encode_facts
from proserve_core.gain import LossCause
from proserve_core.routing import RoutingRequest
from proserve_gateway.accounting import Accounting, Entry
from proserve_gateway.answer import Answer
from proserve_gateway.dispatch_errors import failed_request, refusal
from proserve_gateway.errors import ApiError, engine_failure
from proserve_gateway.fleet import Fleet, Lease, Outcome
from proserve_gateway.inference_request import InferenceRequest
from proserve_gateway.prompt_estimate import PromptEstimator
from proserve_gateway.request_body import BodyKind
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
