"""From bytes to a request that may be served: whose it is, what it asks for, what it is worth. For HTTP and gRPC."""

import os
from collections.abc import Callable, Mapping

from proserve_gateway.configuration.catalog import Catalog, TenantGrant
from proserve_gateway.errors import ApiError, starting
from proserve_gateway.requests.body import BodyKind, parse_body
from proserve_gateway.requests.body_budget import BodyBudget, HeldBody
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.trace_context import TraceContext


class Intake:
    """Turns what arrives into `InferenceRequest`s. Every refusal is counted here, once."""

    def __init__(
        self, *, catalog: Catalog, accounting: Accounting, starting: bool = False, bodies: BodyBudget | None = None
    ) -> None:
        """`starting`: the catalog is none yet; everything is refused until `take`."""
        self.catalog = catalog
        self._starting = starting
        self._accounting = accounting
        self._bodies = bodies or BodyBudget()

    def take(self, catalog: Catalog) -> None:
        """Replace the configuration as a whole."""
        self.catalog = catalog
        self._starting = False

    def authenticate(self, authorization: bytes | None) -> TenantGrant:
        """Whose request it is, before its body is read.

        Raises:
            ApiError: 401, or 503 while there is no configuration: a client that got a 401 would not try again.
        """
        try:
            if self._starting:
                raise starting()
            return self.catalog.authenticate(authorization)
        except ApiError as error:
            self._accounting.refused(error.status)
            raise

    def holds(self, tenant: str, body_bytes: int) -> HeldBody:
        """Room for the body of a request, from its first byte to the request's end.

        Raises:
            ApiError: 429, the tenant has too much under way.
        """
        try:
            return self._bodies.hold(tenant, body_bytes)
        except ApiError as error:
            self._accounting.refused(error.status, tenant=tenant)
            raise

    def accept(
        self,
        grant: TenantGrant,
        *,
        request_id: str,
        arrival_s: float,
        control: Mapping[str, str],
        kind: BodyKind,
        path: str,
        body: bytes,
        trace: TraceContext | None = None,
        waits_s: float | None = None,
        check_reply: Callable[[bytes], object] | None = None,
    ) -> InferenceRequest:
        """Check everything else.

        `control` are the request's headers among `catalog_terms.CONTROL_HEADERS`, `waits_s` is how long its client
        waits from `arrival_s` on, if it says so; `check_reply`: see `InferenceRequest`.

        Raises:
            ApiError: 400 for the body or a header, 403 for a class above the tenant's, 404 for the model.
        """
        try:
            terms = self.catalog.classify(grant, control)
            parsed = parse_body(kind, body)
            pool = self.catalog.pool(parsed.model, grant)
        except ApiError as error:
            self._accounting.refused(error.status, tenant=grant.name)
            raise
        return InferenceRequest(
            id=request_id,
            arrival_s=arrival_s,
            terms=terms,
            tenant=grant.name,
            pool=pool.name,
            path=path,
            body=parsed,
            limits=grant.limits,
            classes=self.catalog.priority_classes,
            trace=trace,
            waits_s=waits_s,
            check_reply=check_reply,
        )

    def refused(self, error: ApiError, grant: TenantGrant | None = None) -> None:
        """Count a refusal that the protocol itself decided on, such as a body that is too large."""
        self._accounting.refused(error.status, tenant=None if grant is None else grant.name)


def new_request_id() -> str:
    """Unguessable and unique over gateways; never the client's, which may come twice."""
    return os.urandom(12).hex()
