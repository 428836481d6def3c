"""One request on its way through the gateway: what was decided, when, and what came of it.

Runs on the data path, so it only keeps what exists anyway; a record is made of it when somebody asks. The body is not
kept: it holds the prompt.
"""

from collections.abc import Callable
from itertools import zip_longest

from proserve_core.request_record import Alternative, Attempt, RequestRecord
from proserve_core.routing import RouteDecision
from proserve_gateway.errors import ApiError
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.seeing.accounting import Entry

WHY_CHARS = 300
"""Of an error's message."""


class _Attempt:
    """The request's time at one engine."""

    __slots__ = ("asked_s", "decision", "failure", "priority_class", "sent_s", "tokens_before")

    def __init__(
        self, decision: RouteDecision, *, priority_class: str, asked_s: float, sent_s: float, tokens_before: int
    ) -> None:
        self.decision = decision
        self.priority_class = priority_class
        self.asked_s = asked_s
        self.sent_s = sent_s
        self.tokens_before = tokens_before
        self.failure = ""


class RequestTrail:
    """What is known of one request. Times on the clock of its arrival."""

    __slots__ = (
        "_attempts", "_clock", "_on_end", "choices", "ended_s", "entry", "error", "expected_prompt_tokens", "id",
        "max_tokens", "model", "pool", "prompt_tokens", "status", "streams", "tenant",
        "trace_id", "why",
    )  # fmt: skip

    def __init__(
        self,
        *,
        request: InferenceRequest,
        expected_prompt_tokens: int,
        entry: Entry,
        clock: Callable[[], float],
        on_end: Callable[["RequestTrail"], None],
    ) -> None:
        """Follows `entry` to its end, which `on_end` is told then."""
        self.id = request.id
        self.tenant = request.tenant
        self.pool = request.pool
        self.model = request.body.model
        self.max_tokens = request.body.max_tokens
        self.choices = request.body.choices
        self.streams = request.body.stream
        self.expected_prompt_tokens = expected_prompt_tokens
        self.entry = entry
        self._clock = clock
        self._on_end = on_end
        self._attempts: list[_Attempt] = []
        self.prompt_tokens: int | None = None
        self.ended_s: float | None = None
        self.status: int | None = None
        self.trace_id = "" if request.trace is None else request.trace.trace_id
        self.error = self.why = ""
        entry.on_end = self._ended

    def sent(self, decision: RouteDecision, *, priority_class: str, asked_s: float) -> None:
        """It goes to an engine as one of this class; it had asked for one at `asked_s`."""
        self._attempts.append(
            _Attempt(
                decision,
                priority_class=priority_class,
                asked_s=asked_s,
                sent_s=self._clock(),
                tokens_before=self.entry.account.tokens,
            )
        )

    def failed(self, failure: str) -> None:
        """The engine where it is failed."""
        if self._attempts:
            self._attempts[-1].failure = failure

    def refused(self, error: ApiError) -> None:
        """The client gets this error."""
        self.error = error.code
        self.why = error.plain[:WHY_CHARS]

    def _ended(self, status: int, prompt_tokens: int | None) -> None:
        self.ended_s = self._clock()
        self.status = status
        self.prompt_tokens = prompt_tokens
        self._on_end(self)

    def record(self, unix_offset_s: float) -> RequestRecord:
        """Everything so far; `unix_offset_s` is what turns the clock's times into seconds since 1970."""
        account = self.entry.account
        arrival_s, own_class = account.arrival_s, account.terms.priority_class
        after = [attempt.tokens_before for attempt in self._attempts[1:]] + [account.tokens]
        return RequestRecord(
            id=self.id,
            arrived_unix_s=arrival_s + unix_offset_s,
            tenant=self.tenant,
            model=self.model,
            pool=self.pool,
            terms=account.terms,
            expected_prompt_tokens=self.expected_prompt_tokens,
            prompt_tokens=self.prompt_tokens,
            expected_output_tokens=self.entry.expected_tokens,
            output_tokens=account.tokens,
            max_tokens=self.max_tokens,
            choices=self.choices,
            streams=self.streams,
            attempts=tuple(
                [
                    Attempt(
                        engine=attempt.decision.engine,
                        reason=attempt.decision.reason,
                        sent_s=attempt.sent_s - arrival_s,
                        waited_s=attempt.sent_s - attempt.asked_s,
                        expected_ttft_s=attempt.decision.expected_ttft_s,
                        expected_gain=attempt.decision.expected_gain,
                        alternatives=_alternatives(attempt.decision),
                        served_as="" if attempt.priority_class == own_class else attempt.priority_class,
                        tokens=tokens - attempt.tokens_before,
                        failure=attempt.failure,
                    )
                    for attempt, tokens in zip(self._attempts, after, strict=False)
                ]
            ),
            ttft_s=None if account.first_s is None else account.first_s - arrival_s,
            last_token_s=None if account.last_s is None else account.last_s - arrival_s,
            ended_s=None if self.ended_s is None else self.ended_s - arrival_s,
            status=self.status,
            error=self.error,
            why=self.why,
            trace_id=self.trace_id,
            earned=account.earned,
            lost=dict(account.lost),
        )


def _alternatives(decision: RouteDecision) -> tuple[Alternative, ...]:
    rows = zip_longest(decision.candidates, decision.candidate_ttft_s, decision.candidate_gain)
    return tuple([Alternative(engine=name, expected_ttft_s=ttft_s, expected_gain=gain) for name, ttft_s, gain in rows])
