"""One request that may be served: what intake makes and dispatch serves."""

from collections.abc import Callable, Mapping, Sequence

from proserve_core.objectives import PriorityClass, ServiceTerms, TenantLimits
from proserve_gateway.quotas.quotas import QuotaTicket
from proserve_gateway.requests.body import RequestBody
from proserve_gateway.seeing.trace_context import TraceContext

NEAR_SHARE, NEAR_S = 0.02, 0.02
"""A call that ends so little before its deadline was ended by it: grpc rounds time-outs by up to a hundredth, and the
client, whose clock has run for longer, may be the first to tell."""


class InferenceRequest:
    """A request that passed authentication and checks."""

    __slots__ = (
        "arrival_s", "body", "check_reply", "classes", "id", "limits", "path", "pool", "tenant", "terms", "ticket",
        "trace", "waits_s",
    )  # fmt: skip

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
        limits: TenantLimits | None = None,
        classes: Mapping[str, PriorityClass] | None = None,
        trace: TraceContext | None = None,
        waits_s: float | None = None,
        check_reply: Callable[[bytes], object] | None = None,
    ) -> None:
        self.id = id
        """Of the gateway's own making; the engine gets it as `x-request-id`."""
        self.arrival_s = arrival_s
        """When the headers were here."""
        self.terms = terms
        """As which it is served: those of its class until it is degraded."""
        self.classes = classes or {}
        """As they were when it arrived, by name."""
        self.tenant = tenant
        self.limits = limits
        """Quotas of the tenant; None if it has none."""
        self.ticket: QuotaTicket | None = None
        """What it holds of them once it was admitted."""
        self.pool = pool
        self.path = path
        """Route at the engine."""
        self.body = body
        self.trace = trace
        """What engines are told of the trace: the client's, or our span where we trace."""
        self.waits_s = waits_s
        """How long its client waits for all of the answer, from the arrival; None: it does not say."""
        self.check_reply = check_reply
        """Raises `SseError` for a whole reply that its protocol can't tell; None: any can be told."""

    def deadline_passed(self, now_s: float) -> bool:
        """Whether a client that is gone at this time has waited for as long as it wanted to."""
        return self.waits_s is not None and now_s >= self.arrival_s + (1 - NEAR_SHARE) * self.waits_s - NEAR_S

    def quota_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """How the tenant's quotas stand, for the answer."""
        return () if self.ticket is None else self.ticket.headers()
