"""One tenant's quotas at this gateway, with or without a store that other gateways write to as well.

With a store, requests that come while a call to it is under way go together in the next one: a busy tenant costs one
exchange per round trip and not one per request. A batch is decided at once, in order of arrival, on what its own
exchange brought: the store's sums say who came first, so two gateways never admit more than the limit together.
"""

import asyncio
from typing import TYPE_CHECKING

from proserve_core.admission.quota import QuotaKind, QuotaRefusal, Reservation, TenantUsage
from proserve_core.objectives import TenantLimits

if TYPE_CHECKING:
    from proserve_gateway.quotas.store import QuotaStore

ANSWER_S = 0.05
"""Longest wait of a request for the store: fifty times what it takes in one data centre."""
FRESH_S = 1.0
"""What other replicas used is asked for again when it is older."""
EXCHANGE = "quota exchange"
"""Name of the tasks that talk to the store."""

Decision = asyncio.Future[QuotaRefusal | None]


class QuotaTenant:
    """A tenant that has limits."""

    def __init__(self, name: str, limits: TenantLimits, store: "QuotaStore | None") -> None:
        self.name = name
        self.limits = limits
        """Of the configuration that its last request was accepted with."""
        self.usage = TenantUsage(name)
        self.refusals = dict.fromkeys(QuotaKind, 0)
        self._store = store
        self._losses = 0 if store is None else store.losses
        self._waiting: list[tuple[Reservation, Decision]] = []
        self._exchanging: asyncio.Task[None] | None = None

    async def decide(self, reservation: Reservation) -> QuotaRefusal | None:
        """Whether a reservation stands."""
        store, usage = self._store, self.usage
        if store is None or self._refused_by_what_is_known(reservation):
            return usage.decide(reservation, self.limits)
        if not store.up:
            return usage.decide(reservation, self.limits, share=store.replicas)
        decision: Decision = asyncio.get_running_loop().create_future()
        self._waiting.append((reservation, decision))
        self.exchange(reservation.wall_s)
        try:
            await asyncio.wait([decision], timeout=ANSWER_S)
        except BaseException:
            if decision.cancel():
                usage.abandon(reservation)
            elif decision.result() is None:
                usage.give_back(reservation)
            raise
        if not decision.cancel():
            return decision.result()
        store.too_slow()
        # What was sent may arrive all the same; the books say what is owed to the store when it is back.
        return usage.decide(reservation, self.limits, share=store.replicas)

    def exchange(self, wall_s: float) -> None:
        """Send the store what it lacks, and decide what waits; nobody waits for that here."""
        if self._store is not None and self._store.up and self._exchanging is None:
            self._exchanging = asyncio.create_task(self._run(self._store, wall_s), name=EXCHANGE)

    async def _run(self, store: "QuotaStore", wall_s: float) -> None:
        try:
            again = True
            while again:
                batch, self._waiting = self._waiting, []
                if batch:
                    wall_s = batch[-1][0].wall_s
                refused = await self._exchange(store, batch, wall_s)
                # What was refused is given back at once: another gateway may be refusing because of it.
                again = store.up and (bool(self._waiting) or refused)
        finally:
            self._exchanging = None

    async def _exchange(
        self, store: "QuotaStore", batch: list[tuple[Reservation, Decision]], wall_s: float, *, again: bool = True
    ) -> bool:
        """Whether any of the batch was refused. A store that has lost its data is asked `again`, once: one that loses
        it at every call is none."""
        counts = self.usage.counts(self.limits, wall_s)
        if self._losses != store.losses:
            self._losses = store.losses
            self.usage.forgotten()
        before = self.usage.counts_before(self.limits, wall_s)
        asked = [count for count in counts if batch or count.pending]
        asked += [count for count in before if count.pending or (batch and count.read_s <= wall_s - FRESH_S)]
        through = await store.exchange(asked)
        if through and self._losses != store.losses:
            if again:
                return await self._exchange(store, batch, wall_s, again=False)
            through = False
        share = 1 if through else store.replicas
        refused = False
        for reservation, decision in batch:
            if not decision.done():
                refusal = self.usage.decide(reservation, self.limits, share=share)
                decision.set_result(refusal)
                refused = refused or refusal is not None
        return refused

    def _refused_by_what_is_known(self, reservation: Reservation) -> bool:
        """So a tenant that floods costs the store nothing."""
        counts = self.usage.counts(self.limits, reservation.wall_s)
        fresh = all(count.read_s > reservation.wall_s - FRESH_S for count in counts)
        return fresh and self.usage.refusal(reservation, self.limits) is not None
