"""What runs beside the data path, and the one rule for when it fails.

No fault there may end the data path, and none may pass unnoticed: certificates would never be renewed again, or
requests not be recorded. So whatever fails is logged, counted and begun again. What is begun and forgotten (a task for
one thing, a timer) can't be begun again; the loop tells its faults, which are logged and counted as `OTHER`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from proserve_gateway.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

PAUSE_S = 5.0
"""Before what failed is begun again."""
OTHER = "other"


class Background:
    """All of one gateway."""

    def __init__(self, metrics: GatewayMetrics, *, pause_s: float = PAUSE_S) -> None:
        self._failures = metrics.background_failures
        self._failures.labels(OTHER)
        self._pause_s = pause_s
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run what `work` makes until it returns, or until the task is cancelled. `name`: one of few, a label value."""
        self._failures.labels(name)
        task = asyncio.create_task(self._keep(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                return await work()
            except Exception:
                logger.exception("a fault of the gateway in its %s, which begins again in %g s", name, self._pause_s)
                self._failures.labels(name).inc()
            await asyncio.sleep(self._pause_s)

    def hear(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count the faults of this loop that nobody else is told."""
        loop.set_exception_handler(self._unheard)

    def _unheard(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failures.labels(OTHER).inc()
        loop.default_exception_handler(context)

    async def stop(self) -> None:
        """End everything."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
