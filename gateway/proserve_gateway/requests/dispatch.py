"""The life of a request once it was understood, the same for HTTP and gRPC: choose an engine, send, hand its answer on.

A request that was accepted ends in one of three ways: its full answer, an explicit error, or the client's own cancel.
While nothing of the answer has been given to the client, a failed engine is replaced by another (`attempts`); after
that the stream is continued on another (`continuation`).
"""

import asyncio
import logging
from collections.abc import Callable

from proserve_core.facts import encode_facts
from proserve_core.gain import LossCause
from proserve_core.routing.state import boosted
from proserve_gateway.errors import ApiError
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.lease import Lease
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.quotas.errors import QuotaError
from proserve_gateway.quotas.quotas import Quotas
from proserve_gateway.relay.continuation import Continuation, Leg, Result
from proserve_gateway.relay.continuation_body import obstacle, stop_strings
from proserve_gateway.relay.relay import Relay
from proserve_gateway.relay.responses_relay import ResponsesRelay, ResponseUsage, decode_response
from proserve_gateway.relay.sse import SseError, believed, decode_reply
from proserve_gateway.relay.sse_relay import BROKEN_OFF, SseRelay
from proserve_gateway.relay.stop_strings import kept_chars
from proserve_gateway.relay.token_trail import TokenTrail
from proserve_gateway.requests.answer import Answer
from proserve_gateway.requests.attempts import TOO_BUSY, Attempts
from proserve_gateway.requests.body import BodyKind, RequestBody
from proserve_gateway.requests.dispatch_errors import gateway_fault
from proserve_gateway.requests.engine_calls import MAX_REPLY_BYTES, EngineCalls, is_stream
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.requests.prompt_estimate import least_tokens
from proserve_gateway.requests.routing_requests import RoutingRequests
from proserve_gateway.seeing.accounting import Accounting, Entry
from proserve_gateway.seeing.decisions import Decisions
from proserve_gateway.upstream.client import UpstreamClient
from proserve_gateway.upstream.exchange import Exchange

logger = logging.getLogger(__name__)


class Dispatcher:
    """Sends requests to engines and accounts for what comes back."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        accounting: Accounting,
        upstream: UpstreamClient,
        metrics: GatewayMetrics,
        decisions: Decisions,
        clock: Callable[[], float],
        quotas: Quotas | None = None,
    ) -> None:
        """`quotas`: where tenants' use of their limits is counted; without it, here alone."""
        self._fleet = fleet
        self._accounting = accounting
        self._calls = EngineCalls(upstream=upstream, clock=clock)
        self._metrics = metrics
        self._decisions = decisions
        self._clock = clock
        self._routes = RoutingRequests(fleet=fleet, clock=clock)
        self._quotas = quotas or Quotas()

    async def answer(self, request: InferenceRequest) -> Answer:
        """Run the request until the first of its answer is here: the whole reply, or the first events of a stream.

        Cancel the caller when the client leaves; after the return that is `Answer`'s to notice.

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
            prompt_tokens = self._routes.prompt_tokens(request)
            trail = self._decisions.begin(request, entry, expected_prompt_tokens=prompt_tokens)
        except Exception as error:
            fault = gateway_fault(request.id, error)
            entry.close(LossCause.ENGINE_FAILURE, status=fault.status)
            raise fault from error
        attempts = Attempts(
            request=request,
            trail=trail,
            fleet=self._fleet,
            metrics=self._metrics,
            clock=self._clock,
            total_s=self._calls.total_s,
        )
        try:
            if request.limits is not None:
                request.ticket = entry.ticket = await self._quotas.admit(
                    request.tenant,
                    request.limits,
                    prompt_tokens=prompt_tokens,
                    least_prompt_tokens=body.prompt_tokens or least_tokens(body.prompt_bytes),
                    expected_output_tokens=entry.expected_tokens,
                )
            routing = self._routes.of(request, entry, prompt_tokens=prompt_tokens)
            return await attempts.run(routing, lambda lease: self._start(request, lease, entry, attempts))
        except asyncio.CancelledError:
            attempts.abandoned()
            entry.close(LossCause.CLIENT_CANCEL, late_s=self._clock())
            raise
        except QuotaError as error:
            trail.refused(error)
            self._decisions.over_quota(trail)
            entry.refuse(error.status)
            raise
        except ApiError as error:
            trail.refused(error)
            if error.status == TOO_BUSY:
                entry.close(LossCause.SHED, status=error.status)
            elif error.status < 500:
                entry.refuse(error.status)
            else:
                entry.close(LossCause.ENGINE_FAILURE, status=error.status)
            raise
        except Exception as error:
            fault = gateway_fault(request.id, error)
            trail.refused(fault)
            entry.close(LossCause.ENGINE_FAILURE, status=500)
            raise fault from error

    async def _start(self, request: InferenceRequest, lease: Lease, entry: Entry, attempts: Attempts) -> Answer:
        """Send the request to one engine; returns when the first of its answer is here.

        Raises:
            UpstreamError: the exchange failed.
            SseError: what came is not an answer.
            ApiError: the engine answered with an error status.
        """
        endpoint, body = lease.endpoint, request.body
        sent_s = self._clock()
        age_s = max(0.0, sent_s - request.arrival_s)
        # Ids are of use only if another engine can go on from them.
        keep_ids = endpoint.is_vllm and self._fleet.size(request.pool) > 1 and obstacle(body) is None
        terms = boosted(lease.request.terms, lease.request.boost)
        facts = encode_facts(terms, age_s, request.tenant) if endpoint.has_capacity else None
        entry.sent = True
        exchange = await self._calls.post(
            request,
            lease,
            request.path,
            lambda: body.encode(facts=facts, exact_usage=endpoint.is_vllm, token_ids=keep_ids),
        )
        try:
            relay: Relay | None = None
            continuation: Continuation | None = None
            if is_stream(exchange):
                relay = _relay(body, TokenTrail(kept_chars(stop_strings(body))) if keep_ids else None)
                continuation = Continuation(
                    request=request,
                    routing=lease.request,
                    attempts=attempts,
                    calls=self._calls,
                    fleet=self._fleet,
                    clock=self._clock,
                )
            answer = Answer(
                leg=Leg(exchange=exchange, lease=lease),
                entry=entry,
                clock=self._clock,
                relay=relay,
                continuation=continuation,
                sent_s=sent_s,
                request=request,
                attempts=attempts,
                books=self,
            )
            if relay is not None:
                await answer.begin()
            else:
                await self._take_whole(answer, exchange, request)
        except BaseException:
            exchange.abort()
            raise
        return answer

    async def _take_whole(self, answer: Answer, exchange: Exchange, accepted: InferenceRequest) -> None:
        """All tokens of a reply that is not streamed are judged when it is here: that is when the client gets them."""
        request = accepted.body
        kind, body = request.kind, await exchange.read_all(MAX_REPLY_BYTES)
        if accepted.check_reply is not None:
            accepted.check_reply(body)
        if kind is BodyKind.RESPONSES:
            counts = decode_response(body).usage or ResponseUsage()
            tokens = believed(counts.output_tokens or 0, request.most_output_tokens)
            answer.whole(body, tokens=tokens, prompt_tokens=counts.input_tokens)
            return
        reply = decode_reply(body)
        if any(choice.finish_reason in BROKEN_OFF for choice in reply.choices or ()):
            raise SseError("it gave the request up")
        if not reply.choices and kind is not BodyKind.OTHER:
            raise SseError("its reply has no choices")
        usage = reply.usage
        tokens = (usage.completion_tokens or 0) if usage is not None and kind is not BodyKind.OTHER else 0
        believed(tokens, request.most_output_tokens)
        answer.whole(body, tokens=tokens, prompt_tokens=None if usage is None else usage.prompt_tokens)

    def prompt_counted(self, request: InferenceRequest, tokens: int) -> None:
        """Learn from a prompt's length (`answer.Books`)."""
        self._routes.prompt_counted(request, tokens)

    def stream_broke(self, request: InferenceRequest, result: Result, message: str) -> None:
        """Count and log what became of a stream whose engine failed (`answer.Books`)."""
        self._metrics.broken_streams.labels(request.pool, result).inc()
        level = logging.INFO if result in (Result.CONTINUED, Result.ONLY_END_MISSING) else logging.WARNING
        logger.log(
            level,
            "request %s: stream broken, %s (%s)",
            request.id,
            result,
            message,
            extra={"request_id": request.id, "tenant": request.tenant, "pool": request.pool, "result": result},
        )


def _relay(body: RequestBody, trail: TokenTrail | None) -> Relay:
    """For the events that this kind of request is answered with."""
    if body.kind is BodyKind.RESPONSES:
        return ResponsesRelay(most_tokens=body.most_output_tokens)
    return SseRelay(
        include_usage=body.include_usage,
        continuous_usage=body.continuous_usage,
        choices=body.choices,
        most_tokens=body.most_output_tokens,
        trail=trail,
    )
