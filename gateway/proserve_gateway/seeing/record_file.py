"""Requests that have ended, as JSON lines in a file: what `proserve replay` reads, and a log of all requests.

The data path only encodes a line; another thread writes them, once a second. At `ROTATE_BYTES` the file becomes
`FILE.1`, in place of the one before, so that two of them are all there ever is. A disk that is full or slow costs
lines, which are counted, and never a request.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec

from proserve_core.objectives import PriorityClass
from proserve_core.request_record import RecordedEngine, RecordedFleet, RecordLine
from proserve_gateway.fleet.engine import Engine
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.seeing.decisions import Decisions
from proserve_gateway.seeing.request_trail import RequestTrail

logger = logging.getLogger(__name__)

EVERY_S = 1.0
ROTATE_BYTES = 64 * 2**20
WAITING_BYTES = 8 * 2**20
"""Of lines that wait to be written; more are dropped."""
FLEET_EVERY_S = 600.0
"""Latency models drift, so the fleet is written again even if its engines are the same."""


class RecordFile:
    """Follows requests from `Decisions`; `run` in a task, then `close`."""

    def __init__(
        self,
        path: Path,
        *,
        decisions: Decisions,
        fleet: Callable[[], RecordedFleet],
        metrics: GatewayMetrics,
        rotate_bytes: int = ROTATE_BYTES,
    ) -> None:
        """Opens the file, to go on at its end.

        Raises:
            OSError: it can't be written; the message names it.
        """
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._fleet = fleet
        self._decisions = decisions
        self._dropped = metrics.records_dropped
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._written_fleet: RecordedFleet | None = None
        self._file: BinaryIO | None = path.open("ab")
        self._failing = False
        self._flushing: asyncio.Task[None] | None = None
        decisions.on_end.append(self._ended)

    async def run(self) -> None:
        """Write what comes until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what has come. A thread can't be cancelled: whoever is cancelled here leaves it to who flushes next."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        self._flushing = asyncio.create_task(self._flush())
        await asyncio.shield(self._flushing)

    async def _flush(self) -> None:
        if not self._lines:
            return
        lines, self._lines, self._waiting_bytes = self._lines, [], 0
        try:
            fleet = self._fleet()
            new = fleet if self._is_new(fleet) else None
            await asyncio.get_running_loop().run_in_executor(None, self._write, lines, fleet, new)
        except Exception as error:
            self._dropped.inc(len(lines))
            if not isinstance(error, OSError):
                raise
            self._failed(error)
            return
        self._written_fleet = new or self._written_fleet
        if self._failing:
            logger.info("%s: requests are recorded again", self._path)
        self._failing = False

    async def close(self) -> None:
        """Write the rest."""
        await self.flush()
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._failed(error)

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            logger.error("%s: requests are not recorded: %s", self._path, error.strerror or error)
        self._failing = True

    def _ended(self, trail: RequestTrail) -> None:
        if self._waiting_bytes >= WAITING_BYTES:
            self._dropped.inc()
            return
        line = self._encode(RecordLine(request=self._decisions.record(trail)))
        self._lines.append(line)
        self._waiting_bytes += len(line)

    def _is_new(self, fleet: RecordedFleet) -> bool:
        before = self._written_fleet
        if before is None or fleet.at_unix_s - before.at_unix_s >= FLEET_EVERY_S:
            return True
        return (fleet.routers, fleet.classes, _names(fleet)) != (before.routers, before.classes, _names(before))

    def _write(self, lines: list[bytes], fleet: RecordedFleet, new: RecordedFleet | None) -> None:
        """In a thread of its own."""
        file = self._file
        if file is None:
            file = self._file = self._path.open("ab")
        if file.tell() >= self._rotate_bytes:
            self._file = None  # first: a file that fails to close is closed all the same
            file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            file = self._file = self._path.open("ab")
        if new is not None or file.tell() == 0:
            lines = [self._encode(RecordLine(fleet=fleet)), *lines]
        file.write(b"\n".join(lines) + b"\n")
        file.flush()


def recorded_fleet(
    engines: Iterable[Engine],
    *,
    routers: dict[str, str],
    at_unix_s: float,
    classes: Iterable[PriorityClass] = (),
) -> RecordedFleet:
    """The engines that tell enough of themselves to be simulated."""
    known = [(engine.target, engine.view.snapshot) for engine in engines]
    return RecordedFleet(
        at_unix_s=at_unix_s,
        routers=routers,
        classes=tuple(classes),
        engines=tuple(
            [
                RecordedEngine(
                    name=target.name,
                    pool=target.pool,
                    policy=snapshot.policy,
                    block_size=snapshot.block_size,
                    blocks=snapshot.blocks,
                    max_sequences=snapshot.max_sequences,
                    max_step_tokens=snapshot.max_step_tokens,
                    latency=snapshot.latency,
                )
                for target, snapshot in known
                if snapshot is not None
            ]
        ),
    )


def _names(fleet: RecordedFleet) -> list[tuple[str, str, int, int]]:
    return [(engine.name, engine.policy, engine.blocks, engine.max_sequences) for engine in fleet.engines]
