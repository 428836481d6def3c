"""Everything by which people follow requests: decisions, gain over time, the record file, traces."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from proserve_gateway.background import Background
from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.decisions import Decisions
from proserve_gateway.seeing.gain_history import EVERY_S, GainHistory
from proserve_gateway.seeing.record_file import RecordFile, recorded_fleet
from proserve_gateway.seeing.trace_settings import tracing_wanted

if TYPE_CHECKING:
    from proserve_gateway.seeing.tracing import Tracing


class Seeing:
    """Of one gateway."""

    def __init__(
        self,
        *,
        accounting: Accounting,
        metrics: GatewayMetrics,
        fleet: Fleet,
        catalog: Callable[[], Catalog],
        clock: Callable[[], float],
        record: Path | None = None,
    ) -> None:
        """`record` is where requests are written; the environment says whether they are traced.

        Raises:
            OSError: the file can't be written.
            ValueError: the environment asks for an exporter that there is not.
        """
        self.decisions = Decisions(clock=clock)
        self.history = GainHistory(accounting.ledger, clock=time.time)
        self._fleet = fleet
        self._catalog = catalog
        self._tracing = self._traces()
        self._record = None if record is None else self._record_file(record, metrics)

    def start(self, background: Background) -> None:
        """Begin with what happens from time to time."""
        background.run("gain history", self._note_gain)
        if self._record is not None:
            background.run("record file", self._record.run)

    async def stop(self) -> None:
        """All requests and the background have ended: write and export what is left."""
        if self._record is not None:
            await self._record.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    async def _note_gain(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self.history.note()

    def _traces(self) -> "Tracing | None":
        if not tracing_wanted(os.environ):
            return None
        from proserve_gateway.seeing.tracing import Tracing

        return Tracing(self.decisions)

    def _record_file(self, path: Path, metrics: GatewayMetrics) -> RecordFile:
        return RecordFile(
            path,
            decisions=self.decisions,
            fleet=lambda: recorded_fleet(
                self._fleet.engines,
                routers={pool.name: pool.routing_policy for pool in self._catalog().pools.values()},
                at_unix_s=time.time(),
                classes=self._catalog().priority_classes.values(),
            ),
            metrics=metrics,
        )
