"""What a request is worth and by when: the domain meaning of PriorityClass and Tenant.

Custom resources are parsed into these types by `proserve_core.resources`; the gateway turns a class into the
`ServiceTerms` of one request and sends them to the engine, so both ends compute the same gain.
"""

from enum import StrEnum

import msgspec


class ServiceObjectives(msgspec.Struct, frozen=True, kw_only=True):
    """Latency targets of a request, in seconds."""

    ttft_s: float
    """Time to first token: the first token is due this long after arrival."""
    tpot_s: float
    """Time per output token: each further token is due this much later than the one before it."""


class ServiceTerms(msgspec.Struct, frozen=True, kw_only=True):
    """Everything gain needs to know about one request (ProServe, section 3: w_{p(r)}, w_p, w_d, TTFT, TPOT)."""

    priority_class: str
    weight: float
    """w_{p(r)}: share of value of one request of this class."""
    first_token_gain: float
    """w_p: worth of the first token in units of `weight`."""
    output_token_gain: float
    """w_d: worth of each further token in units of `weight`."""
    objectives: ServiceObjectives


class HeadroomMode(StrEnum):
    ENTITLEMENT = "Entitlement"
    RESERVE = "Reserve"


class OverloadAction(StrEnum):
    QUEUE = "Queue"
    SHED = "Shed"
    DEGRADE = "Degrade"


class Headroom(msgspec.Struct, frozen=True, kw_only=True):
    """Share of each pool's predicted engine time that a class is entitled to."""

    percent: int
    mode: HeadroomMode = HeadroomMode.ENTITLEMENT


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to a request of the class that cannot be served now."""

    action: OverloadAction = OverloadAction.QUEUE
    max_queue_time_s: float | None = None
    degrade_to: str | None = None


class PriorityClass(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster-wide class of requests."""

    name: str
    weight: int
    objectives: ServiceObjectives
    first_token_gain: int = 1
    output_token_gain: int = 1
    headroom: Headroom | None = None
    overload: Overload = Overload()

    def terms(self, objectives: ServiceObjectives | None = None) -> ServiceTerms:
        """Terms of one request of this class, with its own objectives where the client asked for others."""
        return ServiceTerms(
            priority_class=self.name,
            weight=self.weight,
            first_token_gain=self.first_token_gain,
            output_token_gain=self.output_token_gain,
            objectives=objectives or self.objectives,
        )


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Quotas of a tenant; None means unlimited."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_in_flight: int | None = None


class SecretKeyRef(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a `v1` Secret in the tenant's namespace."""

    name: str
    key: str


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends requests, and which classes it may use."""

    name: str
    namespace: str
    priority_class: str
    max_priority_class: str | None = None
    """Heaviest class a request may pick; None: the tenant's own class."""
    anonymous: bool = False
    api_keys: tuple[SecretKeyRef, ...] = ()
    limits: TenantLimits = TenantLimits()
    models: tuple[str, ...] = ()
    """Models the tenant may use; empty: all."""


DEFAULT_CLASS = PriorityClass(name="default", weight=1, objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.05))
"""Class of a request that carries no class facts."""
