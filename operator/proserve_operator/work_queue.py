"""Which pools to look at, each at most once at a time, failures later and later.

The semantics of controller-runtime's work queue: a key that is added while it is being worked on is done again
afterwards, one that is added several times is done once, and one that fails comes back with growing pauses.
"""

import asyncio
import heapq
import logging
import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0


class WorkQueue(Generic[K]):
    """A set of keys with an order and times."""

    def __init__(self, *, jitter: Callable[[], float]) -> None:
        """`jitter()` gives numbers from 0 to 1, so that what fails together does not come back together."""
        self._jitter = jitter
        self._ready: dict[K, None] = {}
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._later: list[tuple[float, int, K]] = []
        self._due_s: dict[K, float] = {}
        """When each key of `_later` comes: the earliest time that was asked for. Other entries of it are void."""
        self._number = 0
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that are ready and not being worked on."""
        return len(self._ready)

    def add(self, key: K, *, after_s: float = 0.0) -> None:
        """Work on `key` after `after_s` seconds; of several times that are asked for before it is worked on the
        earliest counts."""
        if after_s > 0:
            due_s = asyncio.get_running_loop().time() + after_s
            if due_s < self._due_s.get(key, math.inf):
                self._number += 1
                self._due_s[key] = due_s
                heapq.heappush(self._later, (due_s, self._number, key))
        elif key in self._working:
            self._again.add(key)
        else:
            self._ready[key] = None
        self._changed.set()

    async def run(self, work: Callable[[K], Awaitable[float | None]], *, workers: int) -> None:
        """Call `work(key)` for each until cancelled. It returns after how many seconds to look again (None: when
        something changes); what it raises counts as a failure of that key. Beside `Retry` that is a fault, which is
        logged: one odd resource must not keep all others from being looked at."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(work))

    async def _worker(self, work: Callable[[K], Awaitable[float | None]]) -> None:
        while True:
            key = await self._next()
            self._working.add(key)
            try:
                again_s = await work(key)
            except Retry as retry:
                again_s = retry.after_s if retry.after_s is not None else self._pause_s(key)
            except Exception:
                again_s = self._pause_s(key)
                logger.exception("%s: an unexpected fault; tried again in %.0f s", key, again_s)
            else:
                self._failures.pop(key, None)
            finally:
                self._working.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)
            if again_s is not None:
                self.add(key, after_s=again_s)

    async def _next(self) -> K:
        loop = asyncio.get_running_loop()
        while True:
            while self._later and (self._is_void(self._later[0]) or self._later[0][0] <= loop.time()):
                entry = heapq.heappop(self._later)
                if not self._is_void(entry):
                    del self._due_s[entry[2]]
                    self.add(entry[2])
            if self._ready:
                key = next(iter(self._ready))
                del self._ready[key]
                # This look says anew when the next one is.
                self._due_s.pop(key, None)
                return key
            self._changed.clear()
            timeout_s = self._later[0][0] - loop.time() if self._later else None
            try:
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            except TimeoutError:
                continue

    def _is_void(self, entry: tuple[float, int, K]) -> bool:
        due_s, _, key = entry
        return self._due_s.get(key) != due_s

    def _pause_s(self, key: K) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_S)
        return pause_s * (0.75 + 0.5 * self._jitter())


class Retry(Exception):  # noqa: N818 - a request, not an error
    """Work on the key again later: after `after_s`, or after a pause that grows with each failure."""

    def __init__(self, after_s: float | None = None) -> None:
        super().__init__(after_s)
        self.after_s = after_s
