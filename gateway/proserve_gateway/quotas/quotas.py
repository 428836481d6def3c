"""Tenants' quotas at the door: a request is admitted here, and settled here when it ends.

The arithmetic is core's (`admission.quota`). Without a store it is all there is; with one, `tenant` says how it
is asked. Tenants without limits never come here.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from proserve_core.admission.quota import (
    QuotaKind,
    QuotaUse,
    Reservation,
    never_fits,
    tokens_to_reserve,
    tokens_used,
)
from proserve_core.objectives import TenantLimits
from proserve_gateway.quotas.errors import beyond_quota, over_quota, quota_headers
from proserve_gateway.quotas.tenant import QuotaTenant

if TYPE_CHECKING:
    from proserve_gateway.quotas.store import QuotaStore

BEAT_S = 1.0
"""How often the store is told that this gateway lives, and given what no request has brought it."""


class QuotaTicket:
    """What one admitted request holds of its tenant's quotas. Settle it once."""

    __slots__ = ("_prompt_tokens", "_quotas", "_reservation", "_tenant")

    def __init__(self, quotas: "Quotas", tenant: QuotaTenant, reservation: Reservation, prompt_tokens: int) -> None:
        self._quotas = quotas
        self._tenant = tenant
        self._reservation = reservation
        self._prompt_tokens = prompt_tokens

    def settle(self, *, prompt_tokens: int | None, output_tokens: int, worked: bool) -> None:
        """The request ended; see `tokens_used`."""
        tokens = tokens_used(
            prompt_tokens=prompt_tokens, estimate=self._prompt_tokens, output_tokens=output_tokens, worked=worked
        )
        self._quotas.settle(self._tenant, self._reservation, tokens)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """How the quotas stand, for the answer."""
        return quota_headers(self._quotas.uses(self._tenant))


class Quotas:
    """Use of all tenants that have limits."""

    def __init__(self, store: "QuotaStore | None" = None, *, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock`: gateways that share a store count by the minutes of the clock on the wall."""
        self.store = store
        self._wall_clock = wall_clock
        self._tenants: dict[str, QuotaTenant] = {}
        """Bounded by the tenants of the configurations that this process has had."""

    async def admit(
        self,
        name: str,
        limits: TenantLimits,
        *,
        prompt_tokens: int,
        least_prompt_tokens: int,
        expected_output_tokens: float,
    ) -> QuotaTicket:
        """Reserve what the request will probably take; its prompt has `least_prompt_tokens` in any case.

        Raises:
            QuotaError: it does not fit, now (429) or ever (400).
        """
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = QuotaTenant(name, limits, self.store)
        tenant.limits = limits
        if limits.tokens_per_minute is not None and never_fits(limits, least_prompt_tokens):
            tenant.refusals[QuotaKind.TOKENS] += 1
            raise beyond_quota(name, least_prompt_tokens, limits.tokens_per_minute)
        tokens = tokens_to_reserve(limits, prompt_tokens=prompt_tokens, expected_output_tokens=expected_output_tokens)
        reservation = tenant.usage.reserve(tokens, self._wall_clock())
        refusal = await tenant.decide(reservation)
        if refusal is not None:
            tenant.refusals[refusal.kind] += 1
            raise over_quota(name, refusal, self.uses(tenant))
        return QuotaTicket(self, tenant, reservation, prompt_tokens)

    def settle(self, tenant: QuotaTenant, reservation: Reservation, tokens: int) -> None:
        """A request of the tenant ended (`QuotaTicket`)."""
        wall_s = self._wall_clock()
        tenant.usage.settle(reservation, tokens, wall_s)
        if tenant.limits.max_in_flight is not None:
            # Other gateways wait for the place; tokens can wait for the next request or beat.
            tenant.exchange(wall_s)

    def uses(self, tenant: QuotaTenant) -> list[QuotaUse]:
        """How the tenant's quotas stand."""
        return tenant.usage.uses(tenant.limits, self._wall_clock())

    async def run(self, store: "QuotaStore") -> None:
        """Keep the store informed until cancelled."""
        while True:
            await self.beat(store)
            await asyncio.sleep(BEAT_S)

    async def beat(self, store: "QuotaStore") -> None:
        """One round of `run`."""
        await store.beat()
        wall_s = self._wall_clock()
        for tenant in self._tenants.values():
            tenant.exchange(wall_s)

    @property
    def tenants(self) -> Collection[QuotaTenant]:
        """Those that have sent something."""
        return self._tenants.values()
