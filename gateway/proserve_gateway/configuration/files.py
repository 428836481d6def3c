"""The configuration from resource files: followed while they change (`proserve gateway -f FILE`, `proserve up`).

Files are looked at four times a second and not through inotify, which needs a watch per folder to see an atomic rename
or the swapped symlink of a mounted ConfigMap, and doesn't exist on network file systems. What counts is what the path
leads to: device, inode, size and time of change. A file is read only when it looked the same twice, so that one that
is being written is not taken half.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from proserve_core.resources import Resources
from proserve_gateway.configuration.configuration import ConfigurationTaker
from proserve_gateway.fleet.target import EngineTarget

LOOK_S = 0.25
"""Between two looks: a change is in force within a second."""

Signature = tuple[tuple[int, int, int, int] | None, ...]


class ResourceFiles:
    """A `ConfigurationSource` over files."""

    def __init__(
        self,
        files: Sequence[Path],
        *,
        load: Callable[[], tuple[Resources, Sequence[EngineTarget]]],
        reload_signal: signal.Signals | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        """Create it before the first configuration is read: what changes after that is noticed.

        `load` reads and checks all files and raises ValueError with everything that is wrong; it runs in a thread. Its
        result is for `ConfigurationTaker.configure`. `reload_signal` has the files read even if they look unchanged.
        """
        self._files = tuple(files)
        self._load = load
        self._reload_signal = reload_signal
        self._look_s = look_s
        self._loaded = self._signature()

    async def follow(self, taker: ConfigurationTaker) -> None:
        """See `ConfigurationSource`."""
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        if self._reload_signal is not None:
            loop.add_signal_handler(self._reload_signal, asked.set)
        try:
            before = self._loaded
            while True:
                now = await asyncio.to_thread(self._signature)
                if asked.is_set() or (now == before and now != self._loaded):
                    asked.clear()
                    self._loaded = now
                    await self._take(taker)
                before = now
                await _wait(asked, self._look_s)
        finally:
            if self._reload_signal is not None:
                loop.remove_signal_handler(self._reload_signal)

    async def _take(self, taker: ConfigurationTaker) -> None:
        try:
            resources, engines = await asyncio.to_thread(self._load)
            taker.configure(resources, engines)
        except ValueError as error:
            taker.refused(str(error))

    def _signature(self) -> Signature:
        return tuple(_signature(file) for file in self._files)


def _signature(file: Path) -> tuple[int, int, int, int] | None:
    """What the path leads to; None when it leads nowhere, which `load` explains."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


async def _wait(event: asyncio.Event, most_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), most_s)
    except TimeoutError:
        return
