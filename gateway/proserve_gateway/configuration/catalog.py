"""What the gateway may do for whom: classes, tenants with their keys, and the pool of each model.

Immutable: a new configuration makes a new catalog, requests in flight keep the terms they were given.
"""

from collections.abc import Mapping

import msgspec

from proserve_core.access_keys import bearer_key
from proserve_core.objectives import PriorityClass, ServiceTerms, Tenant, TenantLimits
from proserve_core.resources import Resources
from proserve_gateway.configuration.catalog_terms import asked_terms
from proserve_gateway.errors import ApiError
from proserve_gateway.security.auth import KeyRing


def qualified_name(namespace: str, name: str) -> str:
    """Short unambiguous name of a namespaced resource: metrics, routing and messages use it."""
    return name if namespace == "default" else f"{namespace}/{name}"


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The engines of one model; `Fleet` and `EngineTarget.pool` know them by `name`."""

    name: str
    """`qualified_name` of the EnginePool."""
    model: str
    routing_policy: str


class TenantGrant(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent the request and what it may ask for."""

    tenant: Tenant
    name: str
    """`qualified_name` of the tenant."""
    terms: ServiceTerms
    """Of a request that asks for nothing else."""
    limits: TenantLimits | None
    """None: there is nothing to count."""


class Catalog:
    """One configuration, ready for look-ups per request."""

    def __init__(self, *, resources: Resources, keys: KeyRing) -> None:
        self._resources = resources
        self._keys = keys
        self._grants = {_tenant_name(tenant): _grant(resources, tenant) for tenant in resources.tenants}
        self._anonymous = next((grant for grant in self._grants.values() if grant.tenant.anonymous), None)
        self.priority_classes: Mapping[str, PriorityClass] = {each.name: each for each in resources.priority_classes}
        self.pools: Mapping[str, Pool] = {
            pool.model.name: Pool(
                name=qualified_name(pool.namespace, pool.name),
                model=pool.model.name,
                routing_policy=pool.routing_policy,
            )
            for pool in resources.engine_pools
        }
        """By model."""

    @classmethod
    def from_resources(cls, resources: Resources) -> "Catalog":
        """The catalog of a validated configuration.

        Raises:
            ValueError: two tenants have the same key.
        """
        keys = KeyRing(
            (key.encode("ascii"), _tenant_name(tenant))
            for tenant in resources.tenants
            for key in resources.api_keys(tenant)
        )
        # What stays in memory for the life of the catalog holds no key.
        return cls(resources=msgspec.structs.replace(resources, secrets=()), keys=keys)

    def authenticate(self, authorization: bytes | None) -> TenantGrant:
        """The tenant of an `Authorization` header. A wrong key never becomes the anonymous tenant.

        Raises:
            ApiError: 401 for no key (unless a tenant is anonymous), a key that nobody has, or another scheme.
        """
        if authorization is None:
            if self._anonymous is None:
                raise _unauthenticated("no API key was sent; send the header 'Authorization: Bearer KEY'")
            return self._anonymous
        key = bearer_key(authorization)
        if key is None:
            raise _unauthenticated("the Authorization header is not a bearer token; send 'Authorization: Bearer KEY'")
        owner = self._keys.owner(key)
        if owner is None:
            raise _unauthenticated("the API key is not known; check it, or ask whoever runs this gateway for one")
        return self._grants[owner]

    def classify(self, grant: TenantGrant, headers: Mapping[str, str]) -> ServiceTerms:
        """Terms of a request from its control headers (`catalog_terms.CONTROL_HEADERS`, lower case).

        Raises:
            ApiError: 400 for a value that makes no sense; the message names the header.
        """
        return asked_terms(self._resources, grant.tenant, headers) if headers else grant.terms

    def pool(self, model: str, grant: TenantGrant) -> Pool:
        """The pool that serves the model.

        Raises:
            ApiError: 404 for a model that nobody serves or that the tenant may not use; told apart for nobody.
        """
        pool = self.pools.get(model)
        if pool is None or not _may_use(grant, model):
            raise ApiError(
                status=404,
                code="model_not_found",
                error_type="invalid_request_error",
                message=f"the model {model[:120]!r} does not exist or you have no access to it; "
                f"you can use: {', '.join(self.models(grant)) or 'none'}",
                param="model",
            )
        return pool

    def models(self, grant: TenantGrant) -> list[str]:
        """Models that the tenant may use, by name."""
        return sorted(model for model in self.pools if _may_use(grant, model))


def _tenant_name(tenant: Tenant) -> str:
    return qualified_name(tenant.namespace, tenant.name)


def _grant(resources: Resources, tenant: Tenant) -> TenantGrant:
    return TenantGrant(
        tenant=tenant,
        name=_tenant_name(tenant),
        terms=resources.priority_class(tenant.priority_class).terms(),
        limits=None if tenant.limits == TenantLimits() else tenant.limits,
    )


def _may_use(grant: TenantGrant, model: str) -> bool:
    return not grant.tenant.models or model in grant.tenant.models


def _unauthenticated(message: str) -> ApiError:
    return ApiError(status=401, code="invalid_api_key", error_type="authentication_error", message=message)
