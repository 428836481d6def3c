"""Drives a replica with the wall clock: begins a step, waits until its planned end, hands out its tokens.

Steps follow one another by absolute times: the next one begins at the planned end of the one before, however late the
timer fired, so that inaccurate sleeps do not add up and an emulated engine is as fast as its calibration says. An
emulator that got no CPU for a while catches up by completing steps without waiting, and says that it was late.
"""

import asyncio
import logging
from collections.abc import Callable

from proserve_core.batching.explain import DecisionLog
from proserve_core.capacity import encode_snapshot
from proserve_core.replica import Emission, Replica
from proserve_engine.emulator.jobs import Job

logger = logging.getLogger(__name__)

LATE_S = 0.25
"""Behind its planned times by more than this, an emulator no longer shows what its calibration would do."""
LATE_REPORT_EVERY_S = 10.0


class TokenFeed:
    """Output tokens of one request on their way to the client: the engine adds, one reader takes."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.emitted = 0
        self.finished = False
        self._taken = 0
        self._news = asyncio.Event()

    def add(self, emission: Emission) -> None:
        self.emitted = emission.token
        self.finished = emission.finished
        self._news.set()

    async def take(self) -> tuple[int, int]:
        """Wait for tokens that were not taken yet: index of the first one (0-based) and their count."""
        while self.emitted == self._taken:
            self._news.clear()
            await self._news.wait()
        first, self._taken = self._taken, self.emitted
        return first, self.emitted - first


class Clockwork:
    """One emulated engine. Everything runs on the event loop that `run` was started on."""

    def __init__(self, replica: Replica, clock: Callable[[], float]) -> None:
        self.replica = replica
        if replica.decisions is None:
            replica.decisions = DecisionLog()
        self.decisions = replica.decisions
        self._clock = clock
        self._feeds: dict[str, TokenFeed] = {}
        self._work = asyncio.Event()
        self._changed: set[asyncio.Future[None]] = set()
        self._reported_late_s = -LATE_REPORT_EVERY_S

    def submit(self, job: Job, request_id: str) -> TokenFeed:
        """Take a request; its tokens come out of the feed.

        Raises:
            SubmitError: the engine could never serve it.
        """
        self.replica.submit(
            request_id=request_id,
            terms=job.terms,
            arrival_s=self._clock() - job.age_s,
            prompt_tokens=job.prompt_tokens,
            output_tokens=job.output_tokens,
            clues=job.clues,
        )
        feed = self._feeds[request_id] = TokenFeed(request_id)
        self._work.set()
        self._notify()
        return feed

    def abort(self, request_id: str) -> None:
        """Drop a request; nothing happens if it has ended."""
        if self._feeds.pop(request_id, None) is not None:
            self.replica.abort(request_id)
            self._notify()

    def drain(self) -> None:
        """Publish that this engine wants no new requests."""
        self.replica.drain()
        self._notify()

    @property
    def draining(self) -> bool:
        return self.replica.draining

    @property
    def waiting_readers(self) -> int:
        return len(self._changed)

    def read(self) -> bytes:
        """The snapshot of this moment as JSON."""
        return encode_snapshot(self.replica.snapshot(self._clock()))

    async def changed(self, after: int, wait_s: float) -> None:
        """Return once the snapshot's `seq` differs from `after`, or after `wait_s`."""
        if self.replica.changes != after:
            return
        change = asyncio.get_running_loop().create_future()
        self._changed.add(change)
        try:
            await asyncio.wait({change}, timeout=wait_s)
        finally:
            self._changed.discard(change)

    async def run(self) -> None:
        """Run steps for ever.

        Raises:
            PlanError: the policy planned what the engine can't do.
        """
        planned_s = self._clock()
        while True:
            step = self.replica.begin_step(planned_s)
            self._notify()
            if step is None:
                self._work.clear()
                await self._work.wait()
                planned_s = self._clock()
                continue
            planned_s += step.duration_s
            late_s = self._clock() - planned_s
            # A sleep of 0 still lets requests in and tokens out while catching up.
            await asyncio.sleep(max(0.0, -late_s))
            if late_s > LATE_S:
                self._report_late(late_s)
            for emission in self.replica.complete_step(planned_s):
                self._deliver(emission)
            # Tokens go out before the next plan is made: it costs no time in the engine that is emulated.
            await asyncio.sleep(0)

    def _deliver(self, emission: Emission) -> None:
        # An aborted request has no feed any more; the replica drops it at the end of the step.
        feed = self._feeds.pop(emission.id, None) if emission.finished else self._feeds.get(emission.id)
        if feed is not None:
            feed.add(emission)

    def _notify(self) -> None:
        for change in self._changed:
            if not change.done():
                change.set_result(None)

    def _report_late(self, late_s: float) -> None:
        now_s = self._clock()
        if now_s - self._reported_late_s >= LATE_REPORT_EVERY_S:
            self._reported_late_s = now_s
            logger.warning(
                "%.2f s behind the calibrated timing: this machine is too busy for the emulated load", late_s
            )
