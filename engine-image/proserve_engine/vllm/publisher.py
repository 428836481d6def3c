"""When and how the engine publishes its capacity.

A snapshot is built in the engine's thread, at the start of a step, where the state is consistent. It costs up to a
millisecond with 512 requests, so the pace follows its price: at most 2% of the time goes into snapshots, and without
readers there is one per second. When the engine falls idle the last word is published at once.
"""

import time
from collections.abc import Callable

from proserve_core.capacity import CapacitySnapshot
from proserve_engine.capacity_board import CapacityBoard
from proserve_engine.metrics import EngineMetrics

READ_INTERVAL_S = 0.01
UNREAD_INTERVAL_S = 1.0
LARGEST_SHARE = 0.02


class Publisher:
    """Paces the publication of one engine's snapshots."""

    def __init__(
        self, board: CapacityBoard, metrics: EngineMetrics, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._board = board
        self._metrics = metrics
        self._clock = clock
        self._last_s = float("-inf")
        self._cost_s = 0.0
        self._said_idle = False

    def due(self, *, idle: bool) -> bool:
        """Whether a snapshot should be published now."""
        if idle:
            return not self._said_idle
        interval_s = READ_INTERVAL_S if self._board.wanted else UNREAD_INTERVAL_S
        return self._clock() - self._last_s >= max(interval_s, self._cost_s / LARGEST_SHARE)

    def publish(self, build: Callable[[], CapacitySnapshot], *, idle: bool) -> None:
        """Build a snapshot and publish it."""
        start_s = self._clock()
        snapshot = build()
        self._board.publish(snapshot)
        self._last_s = self._clock()
        self._cost_s = self._last_s - start_s
        self._said_idle = idle
        self._metrics.snapshot_seconds.observe(self._cost_s)
        self._metrics.running.set(snapshot.running)
        self._metrics.waiting.set(snapshot.waiting)
        self._metrics.free_blocks.set(snapshot.free_blocks)
