"""Gateways' quotas over one real store, on a clock that stands still until told otherwise."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from proserve_core.objectives import TenantLimits
from proserve_gateway.quotas.errors import QuotaError
from proserve_gateway.quotas.quotas import Quotas, QuotaTicket
from proserve_gateway.quotas.store import QuotaStore
from proserve_gateway.quotas.tenant import EXCHANGE

TEN = TenantLimits(requests_per_minute=10)


class Wall:
    """Stands still, so that no test crosses a minute by chance."""

    def __init__(self, now_s: float = 1_000_020.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Replica:
    """A gateway's quotas. Beats when it is told to."""

    def __init__(self, url: str, wall: Wall) -> None:
        self.store = QuotaStore(url, wall_clock=wall)
        self.quotas = Quotas(self.store, wall_clock=wall)

    async def beat(self) -> None:
        """Returns when what it began has come to its end as well."""
        await self.quotas.beat(self.store)
        await exchanged()

    async def admitted(self, limits: TenantLimits = TEN, *, times: int = 1, tokens: int = 1) -> list[QuotaTicket]:
        """What comes of so many requests at once."""
        answers = await asyncio.gather(
            *[
                self.quotas.admit(
                    "a", limits, prompt_tokens=tokens, least_prompt_tokens=tokens, expected_output_tokens=0
                )
                for _ in range(times)
            ],
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, QuotaError):
                raise answer
        return [answer for answer in answers if isinstance(answer, QuotaTicket)]


async def exchanged() -> None:
    """Wait for what goes on without anybody waiting for it."""
    await asyncio.gather(*[each for each in asyncio.all_tasks() if each.get_name() == EXCHANGE])


def states(*replicas: Replica) -> list[bool]:
    return [each.store.up for each in replicas]


@contextlib.asynccontextmanager
async def replicas(
    url: str, count: int = 2, *, start_s: float = 1_000_020.0
) -> AsyncIterator[tuple[list[Replica], Wall]]:
    """Gateways that know of each other. Minutes must be others than those of a test before on the same store."""
    wall = Wall(start_s)
    made = [Replica(url, wall) for _ in range(count)]
    try:
        for _ in range(2):
            for each in made:
                await each.beat()
        yield made, wall
    finally:
        for each in made:
            await each.store.close()
