"""Goes on with a stream on another engine when its own one fails after tokens were sent (ROUTING, section 5).

The next engine gets the ids of the prompt and of all output tokens, so it computes what the failed one would have
computed, with the deadlines and gains that the tokens to come had from the beginning. An engine sends text in whole
characters and holds back what may become a stop string, so the stream goes on behind the last token of which something
was sent (`sent_text`); later ones are generated anew. The engine is asked for the text of that token: what was held
back of it is still to be sent.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from proserve_core.facts import encode_facts
from proserve_core.gain import rest_terms
from proserve_core.routing import RoutingRequest
from proserve_core.routing.state import boosted
from proserve_gateway.errors import ApiError
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.lease import Lease
from proserve_gateway.relay.continuation_body import only_text, rest_of, stop_strings
from proserve_gateway.relay.continuation_events import ContinuedEvents, Envelope, envelope_of
from proserve_gateway.relay.relay import Relay
from proserve_gateway.relay.sse import SseError, decoded
from proserve_gateway.relay.stop_strings import StopStrings
from proserve_gateway.relay.token_trail import TokenTrail
from proserve_gateway.requests.attempts import Attempts
from proserve_gateway.requests.body import BodyKind
from proserve_gateway.requests.dispatch_errors import plain
from proserve_gateway.requests.engine_calls import MAX_REPLY_BYTES, EngineCalls, is_stream
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.upstream.exchange import Exchange

COMPLETIONS = "/v1/completions"
TAIL_TOKENS = 16
"""How many of the last tokens are looked at for the end of a character: it has four bytes at most."""
NO_CHARACTER = "\ufffd"
"""What the text of tokens ends with that are not the end of a character."""
MOST_DROPPED = 32
"""Tokens without a whole character at the end of a stream: beyond this it is not text."""


class Result(StrEnum):
    """What became of a stream whose engine failed. Closed list, used as a metric label."""

    CONTINUED = "continued"
    ONLY_END_MISSING = "only_end_missing"
    """All tokens had been sent."""
    REQUEST = "request"
    """What the request asks for can't be continued."""
    NO_TOKEN_IDS = "no_token_ids"
    """The engine gave no ids, or not of all tokens, or it can't be told whose text was sent."""
    NO_ENGINE = "no_engine"
    """No other engine took it."""
    REFUSED = "refused"
    """The engine said that the request itself is wrong."""
    TOTAL_TIMEOUT = "total_timeout"
    CLIENT_STALLED = "client_stalled"
    """The client took nothing for too long."""
    SHUTDOWN = "shutdown"
    FAULT = "fault"
    """The gateway itself made a mistake."""


class _Detokenized(msgspec.Struct, frozen=True):
    prompt: str


_detokenized = msgspec.json.Decoder(_Detokenized)


class CannotContinueError(Exception):
    """A stream ends here."""

    def __init__(self, result: Result, message: str) -> None:
        super().__init__(message)
        self.result = result


class Leg:
    """One engine's part in a stream."""

    __slots__ = ("events", "exchange", "lease", "tokens_before")

    def __init__(
        self, *, exchange: Exchange, lease: Lease, events: ContinuedEvents | None = None, tokens_before: int = 0
    ) -> None:
        self.exchange = exchange
        self.lease = lease
        self.events = events
        """Makes its events the rest of the stream; None for the first engine."""
        self.tokens_before = tokens_before


class Continuation:
    """The way of one stream from engine to engine."""

    __slots__ = ("_calls", "_clock", "_fleet", "_request", "_routing", "attempts")

    def __init__(
        self,
        *,
        request: InferenceRequest,
        routing: RoutingRequest,
        attempts: Attempts,
        calls: EngineCalls,
        fleet: Fleet,
        clock: Callable[[], float],
    ) -> None:
        self._request = request
        self._routing = routing
        self._calls = calls
        self._fleet = fleet
        self._clock = clock
        self.attempts = attempts

    def missing_end(self, relay: Relay, first: bytes) -> bytes | None:
        """What a stream lacks that has all its tokens; None: tokens are missing.

        Raises:
            CannotContinueError: the usage that the client wants is not known.
        """
        if not relay.finished:
            return None
        prompt_tokens = relay.prompt_tokens or (0 if relay.trail is None else relay.trail.prompt_tokens)
        if self._request.body.include_usage and not prompt_tokens:
            raise CannotContinueError(Result.NO_TOKEN_IDS, "the length of its prompt is not known")
        return self._events(_envelope(first), prompt_tokens, 0, None).closing(relay.tokens)

    async def next_leg(self, relay: Relay, first: bytes) -> Leg:
        """Another engine that goes on; `first` are the stream's first events.

        Raises:
            CannotContinueError: there is none, or the stream can't be continued.
        """
        trail = relay.trail
        if trail is None or trail.has_reasoning or not only_text(self._request.body):
            raise CannotContinueError(Result.REQUEST, "what it asks for is more than text")
        if not trail.told or trail.output_tokens + trail.dropped < relay.tokens:
            raise CannotContinueError(Result.NO_TOKEN_IDS, "the engine did not tell the ids of its tokens")
        if not trail.sent.readable:
            raise CannotContinueError(Result.NO_TOKEN_IDS, "the engine's text is no valid JSON")
        envelope = _envelope(first)
        sent = trail.output_tokens
        routing = msgspec.structs.replace(
            self._routing,
            terms=rest_terms(self._routing.terms, sent),
            prompt_tokens=trail.prompt_tokens + sent,
            expected_output_tokens=max(1.0, self._routing.expected_output_tokens - sent),
        )
        try:
            return await self.attempts.run(
                routing,
                lambda lease: self._start(lease, relay, trail, envelope),
                begun=True,
                exclude=self._fleet.other_servers(self._request.pool),
            )
        except ApiError as error:
            raise CannotContinueError(Result.NO_ENGINE, plain(error)) from error

    async def _start(self, lease: Lease, relay: Relay, trail: TokenTrail, envelope: Envelope) -> Leg:
        request, stops = self._request, stop_strings(self._request.body)
        held, again = await self._seam(lease, trail)
        sent = trail.output_tokens
        facts = None
        if lease.endpoint.has_capacity:
            age_s = max(0.0, self._clock() - request.arrival_s)
            terms = boosted(rest_terms(self._routing.terms, sent), lease.request.boost)
            facts = encode_facts(terms, age_s, request.tenant)
        body = rest_of(request.body, trail)
        exchange = await self._calls.post(
            request, lease, COMPLETIONS, lambda: body.encode(facts=facts, exact_usage=True, token_ids=True)
        )
        if not is_stream(exchange):
            exchange.abort()
            raise SseError("it does not stream")
        events = self._events(envelope, trail.prompt_tokens, sent, StopStrings(stops, held, again) if stops else None)
        return Leg(exchange=exchange, lease=lease, events=events, tokens_before=relay.tokens)

    async def _seam(self, lease: Lease, trail: TokenTrail) -> tuple[str, str]:
        """Forget tokens behind those whose text was sent. Returns what was held back of the last ones' text; where that
        can't be told they are forgotten too, and what was sent of their text is the second."""
        sent = trail.sent
        begin, end = sent.bounds
        trail.drop_behind(end)
        if end > begin:
            held = await self._held(lease, trail, begin)
            if held is not None:
                sent.go_on(trail.end)
                return held, ""
            trail.drop_behind(sent.whole_end)
        for _ in range(MOST_DROPPED):
            if not (await self._text_of(lease, trail.last(TAIL_TOKENS))).endswith(NO_CHARACTER):
                sent.go_on(trail.end)
                return "", sent.part
            trail.drop_last()
        raise SseError(f"the last {MOST_DROPPED} tokens of the stream are no text")

    async def _held(self, lease: Lease, trail: TokenTrail, begin: int) -> str | None:
        """What was held back of the text of the tokens from `begin` on. Those at the end that say nothing are
        forgotten."""
        before = trail.last(TAIL_TOKENS, before=begin)
        # A character that the tokens before have begun is part of the text.
        text_before = (await self._text_of(lease, before)).rstrip(NO_CHARACTER)
        for _ in range(MOST_DROPPED):
            if trail.end <= begin:
                break
            text = await self._text_of(lease, [*before, *trail.since(begin)])
            held = trail.sent.held_in(text.removeprefix(text_before))
            if held is not None:
                return held
            trail.drop_last()
        return None

    async def _text_of(self, lease: Lease, ids: list[int]) -> str:
        if not ids:
            return ""
        asked = {"model": self._request.body.model, "tokens": ids}
        exchange = await self._calls.post(self._request, lease, "/detokenize", lambda: msgspec.json.encode(asked))
        try:
            body = await exchange.read_all(MAX_REPLY_BYTES)
        finally:
            exchange.abort()
        return decoded(_detokenized, body, "its answer to /detokenize").prompt

    def _events(
        self, envelope: Envelope, prompt_tokens: int, sent_tokens: int, stops: StopStrings | None
    ) -> ContinuedEvents:
        return ContinuedEvents(
            envelope=envelope,
            chat=self._request.body.kind is BodyKind.CHAT,
            prompt_tokens=prompt_tokens,
            sent_tokens=sent_tokens,
            stops=stops,
        )


def _envelope(first: bytes) -> Envelope:
    envelope = envelope_of(first)
    if envelope is None:
        raise CannotContinueError(Result.REQUEST, "its first event has no id")
    return envelope
