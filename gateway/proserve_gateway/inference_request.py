"""One request that may be served: what intake makes and dispatch serves."""

from proserve_core.objectives import ServiceTerms
from proserve_gateway.request_body import RequestBody


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
