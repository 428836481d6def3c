"""One request at one engine after another, until one of them takes it.

Another engine is tried at once, without a pause: what failed is that engine and not the request. It is never the same
one again, unless tokens have come since, and never more than `MOST` in a row, because a request may itself be what
kills engines. For the same reason an error that an engine itself answers with (5xx, or nonsense before the first token)
counts against it only once another engine has served the request: otherwise three bad requests of one tenant would
close a pool to everybody. So it is with an engine that does not find the model (404): where another one does, it is
the engine that lacks it, idle for that reason and chosen again and again. Until then such an answer counts nowhere:
what no engine has is the client's mistake. Routes beside those of chats and completions are not every engine's to
have, so where one is missing nobody is blamed, and the request is only tried elsewhere.

Where requests wait for an engine, they do so once. One that had its turn is placed at once when its engine fails, and
so is the rest of a stream: its client was promised an answer, its deadlines have gone on, and what comes back from one
engine is little, since engines hold no more that is not begun than they compute in a fraction of a second.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from proserve_core.gain import deadline_s
from proserve_core.routing import RoutingRequest
from proserve_gateway.errors import ApiError, engine_failure
from proserve_gateway.fleet.class_queue import wait_in_class
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.fleet.lease import Lease, Outcome
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.relay.sse import SseError
from proserve_gateway.requests.body import BodyKind
from proserve_gateway.requests.dispatch_errors import deadline_passed, failed_answer, failed_request, plain, refusal
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.seeing.request_trail import RequestTrail
from proserve_gateway.upstream.exchange import FailureKind, UpstreamError

logger = logging.getLogger(__name__)

MOST = 3
"""Engines that are tried in a row."""
SURELY_LATE = 2.0
"""A first token that is expected this many times later than its client waits is not worth an engine's time: what is
expected is a prediction, and off by tens of percent where engines do not tell their speed."""
TOO_BUSY = 429
"""An engine's answer that is about the engine and not about the request: another one may have room."""
NOT_FOUND = 404
"""An engine's answer that may be about either: the model is in the catalog and the route is served."""
FINAL = frozenset({FailureKind.TOTAL_TIMEOUT, FailureKind.STALLED, FailureKind.STOPPED})
"""Failures that are not the engine's: another one would not do better."""
BAD_STREAM, SERVER_ERROR, BUSY, CREDENTIALS = "bad_stream", "server_error", "busy", "credentials"
MODEL_MISSING = "model_missing"
"""Reasons beside those of `FailureKind`; label values."""

EVERY_ENGINES = frozenset({BodyKind.CHAT, BodyKind.COMPLETION})
"""What every engine has a route for: a 404 there is about the model."""

T = TypeVar("T")


class Attempts:
    """The engines that one request was tried at."""

    __slots__ = ("_clock", "_doubtful", "_fleet", "_metrics", "_missing", "_request", "_total_s", "_trail", "_tried")

    def __init__(
        self,
        *,
        request: InferenceRequest,
        trail: RequestTrail,
        fleet: Fleet,
        metrics: GatewayMetrics,
        clock: Callable[[], float],
        total_s: float,
    ) -> None:
        """`total_s` is the most that a request may take from its arrival."""
        self._request = request
        self._trail = trail
        self._fleet = fleet
        self._metrics = metrics
        self._clock = clock
        self._total_s = total_s if request.waits_s is None else min(total_s, request.waits_s)
        self._tried: set[str] = set()
        self._doubtful: list[tuple[Lease, str]] = []
        self._missing: list[tuple[str, str]] = []

    def went_well(self, engine: str) -> None:
        """Tokens came from this engine before it failed: only it is to be avoided."""
        self._tried = {engine}

    async def run(
        self,
        routing: RoutingRequest,
        start: Callable[[Lease], Awaitable[T]],
        *,
        begun: bool = False,
        exclude: frozenset[str] = frozenset(),
    ) -> T:
        """What `start` returns for the first engine, those in `exclude` aside, that takes the request.

        When the first token is late anyway and the answer has not `begun`, only one more engine is tried than has been:
        an accepted request should be answered, but that answer is not worth more engines.

        Raises:
            ApiError: none took it, or one refused it.
        """
        failure: ApiError | None = None
        while len(self._tried) < MOST and (len(self._tried) < 2 or begun or self._on_time()):
            asked_s = self._clock()
            try:
                lease = await self._lease(routing, exclude, begun=begun)
            except ApiError:
                if failure is None:
                    raise
                # What went wrong on the first engine says more than that there is no second one.
                break
            if not begun and (hopeless := self._in_vain(lease)) is not None:
                lease.close(Outcome.CANCELLED)
                raise failure or hopeless
            routing = lease.request
            self._tried.add(lease.endpoint.name)
            self._trail.sent(lease.decision, priority_class=routing.terms.priority_class, asked_s=asked_s)
            try:
                served = await start(lease)
            except UpstreamError as error:
                failure = failed_request(lease.endpoint.name, error)
                if error.kind in FINAL:
                    lease.close(Outcome.CANCELLED)
                    self._trail.failed(error.kind)
                    break
                lease.close(Outcome.FAILED, str(error))
                self.failed(lease.endpoint.name, error.kind, str(error))
            except SseError as error:
                if error.refusal:
                    lease.close(Outcome.ANSWERED)
                    raise refusal(lease.endpoint.name, 400, [], error.reported) from error
                self.doubt(lease, plain(error))
                self.failed(lease.endpoint.name, BAD_STREAM, plain(error))
                failure = failed_answer(lease.endpoint.name, error)
            except ApiError as error:
                failure = error
                if error.status == NOT_FOUND:
                    self._not_found(lease, plain(error))
                    continue
                reason = _reason(error)
                if reason == SERVER_ERROR and error.status >= 500:
                    self.doubt(lease, plain(error))
                else:
                    lease.close(Outcome.ANSWERED if error.status < 500 else Outcome.FAILED, plain(error))
                if error.status < 500 and error.status != TOO_BUSY:
                    raise
                self.failed(lease.endpoint.name, reason, plain(error))
            except BaseException:
                lease.close(Outcome.CANCELLED)
                raise
            else:
                self._blame()
                return served
        raise failure or engine_failure(f"request {self._request.id} failed at {', '.join(sorted(self._tried))}")

    def doubt(self, lease: Lease, message: str) -> None:
        """The engine answered with an error of its own."""
        lease.close(Outcome.DOUBTFUL, message)
        self._doubtful.append((lease, message))

    def _not_found(self, lease: Lease, message: str) -> None:
        self._trail.failed(MODEL_MISSING)
        if self._request.body.kind in EVERY_ENGINES:
            self.doubt(lease, message)
            self._missing.append((lease.endpoint.name, message))
        else:
            lease.close(Outcome.ANSWERED, message)

    def _blame(self) -> None:
        """Another engine has served the request."""
        for lease, message in self._doubtful:
            lease.blame(message)
        self._doubtful.clear()
        for engine, message in self._missing:
            self._count(engine, MODEL_MISSING, message)
        self._missing.clear()

    async def _lease(self, routing: RoutingRequest, exclude: frozenset[str], *, begun: bool) -> Lease:
        pool = self._request.pool
        if pool in self._fleet.first_engines.pools and not begun and not self._tried:
            routing = await self._fleet.first_engines.wait(self._request, routing, most_s=self._total_s)
        queue = None if begun or self._tried else self._fleet.queue(pool)
        if queue is None:
            return self._fleet.choose(pool, routing, exclude.union(self._tried))
        return await wait_in_class(queue, self._request, routing, clock=self._clock, most_s=self._total_s)

    def _in_vain(self, lease: Lease) -> ApiError | None:
        """Why the engine need not begin: its client will be gone before the first token, beyond doubt."""
        waits_s, expected_s = self._request.waits_s, lease.decision.expected_ttft_s
        if waits_s is None or expected_s is None or expected_s < SURELY_LATE * waits_s:
            return None
        return ApiError(
            status=TOO_BUSY,
            code="overloaded",
            error_type="requests",
            message=f"the first token is expected {expected_s:.1f} s after the request's arrival and the call's "
            f"deadline is {waits_s:.1f} s: it was not begun; try again later or with a later deadline",
            retry_after_s=max(1.0, expected_s - waits_s),
        )

    def gave_up(self, error: ApiError) -> None:
        """The answer that had begun ends with this error."""
        self._trail.refused(error)

    def abandoned(self) -> None:
        """The client is gone."""
        request = self._request
        if request.waits_s is not None and request.deadline_passed(self._clock()):
            self._metrics.deadlines_passed.labels(request.pool).inc()
            self._trail.refused(deadline_passed(request.waits_s))

    def _on_time(self) -> bool:
        request = self._request
        return self._clock() < deadline_s(terms=request.terms, arrival_s=request.arrival_s, token=1)

    def failed(self, engine: str, reason: str, message: str) -> None:
        """Note, count and log an engine's failure."""
        self._trail.failed(reason)
        self._count(engine, reason, message)

    def _count(self, engine: str, reason: str, message: str) -> None:
        self._metrics.engine_failures.labels(self._request.pool, reason).inc()
        logger.warning(
            "request %s: engine %s failed (%s): %s",
            self._request.id,
            engine,
            reason,
            message,
            extra={
                "request_id": self._request.id, "tenant": self._request.tenant, "pool": self._request.pool,
                "engine": engine, "reason": reason,
            },
        )  # fmt: skip


def _reason(error: ApiError) -> str:
    if error.status in (TOO_BUSY, 503):
        return BUSY
    return CREDENTIALS if error.code == "engine_credentials" else SERVER_ERROR
