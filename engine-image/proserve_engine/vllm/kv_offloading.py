"""What goes to the host, in vLLM's terms: ahead of preemption, or when it happens."""

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from proserve_core.blocks import Direction, copy_worth
from proserve_core.blocks.ahead import CopyAhead, Resident
from proserve_core.blocks.settings import KvOffload, Offload
from proserve_core.blocks.way_back import WayBack, flush_pays, way_back
from proserve_core.blocks.worth import gain_left
from proserve_core.latency import LatencyModel
from proserve_engine.kv.copies import Copies
from proserve_engine.kv.counters import CopyCounters
from proserve_engine.kv.link import MeasuredLink
from proserve_engine.kv.messages import CopyJob
from proserve_engine.vllm.kv_admissions import Admissions


class Offloading:
    """Of one engine.

    Args:
        shared: others may restore what a request has on the host.
    """

    def __init__(
        self,
        settings: KvOffload,
        copies: Copies,
        *,
        scheduler: Any,
        adapter: Any,
        admissions: Admissions,
        counters: CopyCounters,
        link: MeasuredLink,
        block_size: int,
        shared: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused = False
        """A worker has no memory for copies: none begins any more."""
        self._when = settings.offload
        self._copies = copies
        self._scheduler = scheduler
        self._adapter = adapter
        self._admissions = admissions
        self._counters = counters
        self._link = link
        self._block_size = block_size
        self._shared = shared
        self._clock = clock
        self._ahead = CopyAhead(block_size)
        self._rest_pays = False
        """The step waits for a copy of what its victims have not on the host; known from the first step on."""
        self._flushes: list[CopyJob] = []

    def preempting(self, request: Any, *, discarding: bool) -> None:
        """The request is about to lose its blocks; `discarding`: what they hold is not wanted."""
        request_id = request.request_id
        device = self._device_blocks(request_id)
        if not discarding:
            self._complete(request)
            holding = self._copies.holding(request_id)
            copying = holding.offload is not None or holding.restore is not None
            if holding.uncopied and not copying and self._flushes_rest(request):
                self._weigh_if_short(holding.uncopied)
                self._flushes += self._offload(request, device, blocks=holding.uncopied, pin=False)
        self._ahead.preempted(len(device))
        self._copies.preempt(request_id)

    def way_back(self, request: Any) -> tuple[WayBack, int]:
        """What would come back if the request were preempted, and blocks that a copy reads until it ends."""
        holding = self._copies.holding(request.request_id)
        if holding.restore is not None:
            # It would lose them.
            return WayBack(0, 0), 0
        self._complete(request)
        return way_back(holding, flushes=self._flushes_rests), holding.offloading

    @property
    def _flushes_rests(self) -> bool:
        if self.refused or self._when is Offload.OFF:
            return False
        return self._when is Offload.ON_PREEMPT or self._rest_pays

    def _flushes_rest(self, request: Any) -> bool:
        """Whether the step waits for a copy of what the request, which loses its blocks, has not yet on the host."""
        if not self._flushes_rests or self._when is Offload.ON_PREEMPT:
            return self._flushes_rests
        state = self._adapter.tracker.states.get(request.request_id)
        return state is not None and gain_left(state, now_s=self._clock(), step_s=self._ahead.step_s) > 0

    def take(self, scheduled: dict[str, int], latency: LatencyModel) -> tuple[list[CopyJob], list[CopyJob]]:
        """The copies that begin with the step that vLLM has put together: those it waits for, and those behind it.

        Args:
            scheduled: tokens of each request in it.
        """
        self._rest_pays = flush_pays(
            latency=latency,
            block_size=self._block_size,
            offload=self._link.costs(Direction.OFFLOAD),
            restore=self._link.costs(Direction.RESTORE),
        )
        flushes, self._flushes = self._flushes, []
        ahead = self._copy_ahead(scheduled, latency) if self._when is Offload.ASYNC and not self.refused else []
        return flushes, ahead

    def _copy_ahead(self, scheduled: dict[str, int], latency: LatencyModel) -> list[CopyJob]:
        scheduler = self._scheduler
        free_blocks = self._adapter.free_blocks
        used_blocks = self._adapter.limits.blocks - free_blocks
        self._ahead.step(now_s=self._clock(), used_blocks=used_blocks, idle=not scheduled)
        residents: list[Resident] = []
        under_way = 0
        for request in scheduler.running:
            self._complete(request)
            request_id = request.request_id
            holding = self._copies.holding(request_id)
            computed = request.num_computed_tokens
            under_way += holding.offloading
            residents.append(
                Resident(
                    request_id=request_id,
                    blocks=-(-computed // self._block_size),
                    uncopied=holding.uncopied,
                    copying=holding.offload is not None or holding.restore is not None,
                    context=computed,
                    pending=request.num_tokens - computed,
                    chunk=scheduled.get(request_id, 0),
                    emitted=request.num_output_tokens,
                    most_output=request.max_tokens,
                )
            )
        evicted = self._copies.ledger.next_evicted()
        plan = self._ahead.plan(
            residents,
            free_blocks=free_blocks,
            latency=latency,
            offload=self._link.costs(Direction.OFFLOAD),
            restore=self._link.costs(Direction.RESTORE),
            under_way=under_way,
            next_evicted=None if evicted is None else evicted.request_id,
        )
        self._weigh_if_short(sum(offload.blocks for offload in plan))
        jobs: list[CopyJob] = []
        for offload in plan:
            device = self._device_blocks(offload.request_id)
            jobs += self._offload(scheduler.requests[offload.request_id], device, blocks=offload.blocks, pin=True)
        return jobs

    def _offload(self, request: Any, device: Sequence[int], *, blocks: int, pin: bool) -> list[CopyJob]:
        began_s, evicted = self._clock(), self._copies.ledger.evicted
        hashes: Sequence[Hashable] = request.block_hashes if self._shared else ()
        job = self._copies.offload(request.request_id, device, blocks=blocks, pin=pin, hashes=hashes)
        self._counters.evicted_blocks.inc(self._copies.ledger.evicted - evicted)
        self._counters.took(Direction.OFFLOAD, copy_s=0.0, exposed_s=self._clock() - began_s)
        return [] if job is None else [job]

    def _weigh_if_short(self, blocks: int) -> None:
        """Say what everybody's host blocks are worth, if some have to give way to `blocks` new ones."""
        ledger = self._copies.ledger
        if blocks <= ledger.room:
            return
        now_s, states = self._clock(), self._adapter.tracker.states
        for holding in ledger.holdings:
            state = states.get(holding.request_id)
            if state is not None:
                gain = gain_left(state, now_s=now_s, step_s=self._ahead.step_s)
                probability = self._ahead.probability.get(holding.request_id, 1.0) if holding.device else 1.0
                ledger.set_worth(holding.request_id, copy_worth(gain, probability))

    def _complete(self, request: Any) -> None:
        """Note which of the request's blocks are full and computed by steps that are over."""
        self._copies.complete(request.request_id, self._admissions.computed_tokens(request) // self._block_size)

    def _device_blocks(self, request_id: str) -> list[int]:
        blocks: list[int] = self._scheduler.kv_cache_manager.get_block_ids(request_id)[0]
        return blocks
