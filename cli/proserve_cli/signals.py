"""Ctrl-C, TERM and HUP as something to wait for, so that an orderly end is ordinary control flow."""

import asyncio
import signal
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Use as `with`, inside a running loop: signals set a flag instead of ending the process."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    def __enter__(self) -> "StopSignals":
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._asked.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def again(self) -> None:
        """Forget the signal that came: the next one means more haste."""
        self._asked.clear()

    async def run(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` until it ends (True) or a signal comes (False; it is cancelled then). Raises what it raised."""
        task = asyncio.create_task(work)
        asked = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            return False
        finally:
            asked.cancel()
            task.cancel()
            await asyncio.wait({task, asked})
