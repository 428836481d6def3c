"""The store in which gateway replicas add up what tenants use: Valkey or Redis, through the library `limits`.

Of the library only counters that expire are used, because decisions rest on sums that this replica keeps as well
(`admission.shared_count`).

A store that fails or is slow is left alone: requests are decided on this replica's share of the limits until a beat,
once a second, gets through again. Nothing waits for it meanwhile. The log has one line when it is lost and one when it
is back; calls that failed are counted.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from limits.aio.storage import RedisStorage
from valkey.asyncio import ConnectionPool

from proserve_core.admission.presence import Presence
from proserve_core.admission.shared_count import SharedCount

logger = logging.getLogger(__name__)

CALL_S = 1.0
"""After this a call has failed."""
BEAT_S = 1.0
STEADY_S = 60.0
"""A store that loses its data again within this, such as two behind one address, is one trouble and one line."""
FIRST_REPLICAS = 2
"""A gateway that has never reached its store counts on one more of its kind: nobody sets up a store for one."""
_KEY_PREFIX = "proserve"
_BEAT_EPOCH_S = 900.0
_SCHEMES = {"valkey": "valkey", "valkeys": "valkeys", "redis": "valkey", "rediss": "valkeys"}
"""Redis is spoken to with the same client: the protocol is one."""


class QuotaStoreError(ValueError):
    """The address can't be one of a store."""


class QuotaStore:
    """Exchanges counters with the other replicas."""

    def __init__(self, url: str, *, wall_clock: Callable[[], float] = time.time) -> None:
        """Connects when it is first used.

        Raises:
            QuotaStoreError: not a usable URL.
        """
        address = store_address(url)
        timeouts = {"socket_timeout": CALL_S, "socket_connect_timeout": CALL_S}
        self._connections = ConnectionPool.from_url(address, **timeouts)
        options: dict[str, Any] = {"connection_pool": self._connections}
        self._storage = RedisStorage(f"async+{address}", key_prefix=_KEY_PREFIX, **options)
        self._wall_clock = wall_clock
        self._presence = Presence("replicas")
        self._presence.own = 1
        self._beats = Presence(f"beat/{os.urandom(6).hex()}", epoch_s=_BEAT_EPOCH_S)
        """Ours alone: when the store has less of them than we gave, it has lost everything. A store drops a counter
        some time after it was made, however often it is written to; so there is another one each epoch."""
        self.up = True
        """Whether it is worth asking."""
        self.replicas = FIRST_REPLICAS
        """Gateways that share it, as last known."""
        self.losses = 0
        """How often it lost its data: what was contributed before is not there any more."""
        self._lost_data_s = -float("inf")
        """When it did so last."""
        self.failures: Counter[str] = Counter()
        """Calls that failed and requests that it kept waiting, by reason."""

    async def close(self) -> None:
        """Give its connections back."""
        await self._connections.aclose()

    async def beat(self) -> None:
        """Show that this replica lives, count the others, and find out whether the store is there."""
        self._beats.own += 1
        if not await self.exchange(self._beats.counts(self._wall_clock())):
            return
        if not await self.exchange(self._presence.counts(self._wall_clock())):
            return
        self.replicas = 1 + self._presence.counts(self._wall_clock())[0].others
        if not self.up:
            self.up = True
            logger.warning("the quota store is back: quotas are shared by %d gateways again", self.replicas)

    async def exchange(self, counts: Sequence[SharedCount]) -> bool:
        """Send what is pending and read the others' part; False: not all of it came through. No counter may be in two
        exchanges at once."""
        return all(await asyncio.gather(*map(self._call, counts)))

    def too_slow(self) -> None:
        """A request has waited in vain."""
        self._lost("slow", "a request waited for it too long")

    async def _call(self, count: SharedCount) -> bool:
        """One call to the store; False: it failed."""
        sent = count.pending
        try:
            total = await self._storage.incr(count.name, round(count.life_s), sent)
            if not isinstance(total, int):
                raise TypeError("it answers a counter with something else than a number")
        except Exception as error:  # noqa: BLE001 - whatever answers there, this gateway goes on
            count.unanswered(sent)
            self._lost(_reason(error), f"{type(error).__name__}: {error}")
            return False
        if not count.stored(sent, total, self._wall_clock()):
            self._lost_data()
            self._beats.forgotten()
            self._presence.forgotten()
            # This call did arrive.
            count.contributed = sent
        return True

    def _lost_data(self) -> None:
        wall_s = self._wall_clock()
        if wall_s - self._lost_data_s > STEADY_S:
            logger.warning("the quota store has lost its data: it gets what this gateway knows again")
        self._lost_data_s = wall_s
        self.losses += 1
        self.failures["lost_data"] += 1

    def _lost(self, reason: str, message: str) -> None:
        self.failures[reason] += 1
        if self.up:
            self.up = False
            logger.warning(
                "the quota store is out of reach (%s): until it is back each of %d gateways grants its share of quotas",
                message,
                self.replicas,
            )


def store_address(url: str) -> str:
    """The URL as the client takes it.

    Raises:
        QuotaStoreError: it is none of a store; the message does not repeat it, because it may hold a password.
    """
    scheme, _, rest = url.removeprefix("async+").partition("://")
    try:
        if scheme in _SCHEMES and urlsplit(f"//{rest}").hostname and urlsplit(f"//{rest}").port != 0:
            return f"{_SCHEMES[scheme]}://{rest}"
    except ValueError:
        pass
    raise QuotaStoreError("expected the address of a Valkey or Redis server, such as valkey://:PASSWORD@HOST:6379/0")


def _reason(error: Exception) -> str:
    """Label value."""
    name = type(error).__name__
    if "Timeout" in name:
        return "timeout"
    return "connection" if isinstance(error, OSError) or "Connection" in name else "refused"
