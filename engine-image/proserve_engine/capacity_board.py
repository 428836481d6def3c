"""Where an engine puts its latest capacity snapshot and where `/capacity` takes it from.

The engine publishes from its own thread, readers wait in the event loop of the HTTP server. Publishing is a swap under
a short lock and never waits for a reader. The board stamps what the engine does not know: sequence number, engine id,
and whether it is draining.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable

import msgspec

from proserve_core.capacity import CapacitySnapshot, encode_snapshot

DEMAND_S = 5.0
"""How long after the last reader the engine still publishes at the pace of readers."""


class CapacityBoard:
    """Latest snapshot of one engine. Times are on `clock`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine_id = secrets.token_hex(8)
        self._clock = clock
        self._lock = threading.Lock()
        self._snapshot: CapacitySnapshot | None = None
        self._taken_s = 0.0
        self._seq = 0
        self._draining = False
        self._last_read_s = float("-inf")
        self._waiters: set[_Waiter] = set()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def wanted(self) -> bool:
        """Whether somebody reads: without readers the engine publishes only now and then."""
        return bool(self._waiters) or self._clock() - self._last_read_s < DEMAND_S

    @property
    def waiting_readers(self) -> int:
        return len(self._waiters)

    def publish(self, snapshot: CapacitySnapshot) -> None:
        """Make `snapshot`, taken now, the latest one and wake whoever waits for a change. Any thread."""
        with self._lock:
            self._swap(snapshot, self._clock())

    def drain(self) -> None:
        """Say from now on that the engine is draining. Any thread."""
        with self._lock:
            self._draining = True
            if self._snapshot is not None:
                self._swap(self._snapshot, self._taken_s)

    def read(self) -> bytes | None:
        """The latest snapshot as JSON with its present age; None before the first."""
        with self._lock:
            now_s = self._clock()
            self._last_read_s = now_s
            snapshot, age_s = self._snapshot, now_s - self._taken_s
        if snapshot is None:
            return None
        return encode_snapshot(msgspec.structs.replace(snapshot, age_s=max(0.0, age_s)))

    async def changed(self, after: int, wait_s: float) -> None:
        """Return once the sequence number differs from `after`, or after `wait_s`."""
        waiter = _Waiter(asyncio.get_running_loop())
        with self._lock:
            self._last_read_s = self._clock()
            if self._snapshot is not None and self._seq != after:
                return
            self._waiters.add(waiter)
        try:
            async with asyncio.timeout(wait_s):
                await waiter.event.wait()
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def _swap(self, snapshot: CapacitySnapshot, taken_s: float) -> None:
        self._seq += 1
        self._snapshot = msgspec.structs.replace(
            snapshot, seq=self._seq, engine_id=self.engine_id, draining=self._draining
        )
        self._taken_s = taken_s
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.wake()


class _Waiter:
    """A reader in some event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.event = asyncio.Event()
        self._loop = loop

    def wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.event.set)
