"""The connector's half beside the scheduler: what is copied, in vLLM's terms.

vLLM calls it through the connector, except for `before_step`, `preempting` and `take_in`, for which connectors have no
hook: these come from ProServe's scheduler. A copy that fails or arrives damaged is found out in the step that used it;
`kv_undo` has what happens then.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from proserve_core.batching import BatchPlan
from proserve_core.blocks import (
    CopyCosts,
    Direction,
    OnlineTransfer,
    Overlap,
    Restorable,
    ResumeModel,
    TransferModel,
    copy_worth,
)
from proserve_core.blocks.ahead import CopyAhead, Resident
from proserve_core.blocks.returns import ReturnBudget
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_core.blocks.worth import gain_left
from proserve_core.latency import LatencyModel, StepWork
from proserve_engine.kv.copies import Copies, EndedCopy
from proserve_engine.kv.counters import CopyCounters
from proserve_engine.kv.messages import CopyJob, CopyReport, StepCopies
from proserve_engine.vllm.kv_undo import undo

_logger = logging.getLogger("vllm.proserve")


class BlockPool:
    """vLLM's pool of device blocks: a pinned block has one reference more."""

    def __init__(self) -> None:
        self._pool: Any = None

    def bind(self, pool: Any) -> None:
        self._pool = pool

    def pin(self, blocks: Sequence[int]) -> None:
        self._pool.touch([self._pool.blocks[block] for block in blocks])

    def unpin(self, blocks: Sequence[int]) -> None:
        # The last first, as vLLM does it: of a row, the front is of use the longest.
        self._pool.free_blocks([self._pool.blocks[block] for block in reversed(blocks)])


class KvScheduling:
    """Lives as long as the scheduler. All methods are called from the engine's thread.

    Args:
        block_bytes: of one block on all workers together.
    """

    def __init__(
        self,
        *,
        settings: KvOffload,
        config: Any,
        kv_cache: Any,
        host_blocks: int,
        block_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = BlockPool()
        self._settings = settings
        group = kv_cache.kv_cache_groups[0]
        self._block_size: int = group.kv_cache_spec.block_size
        self._block_bytes = block_bytes
        self._overlap = Overlap(reload=settings.reload, layers=len(group.layer_names))
        slots: int = config.scheduler_config.max_num_seqs
        self.copies = Copies(
            # Rows of all residents, and as much again that drains.
            device_rows=2 * slots * kv_cache.num_blocks,
            host_blocks=host_blocks,
            pool=self.pool,
            workers=config.parallel_config.world_size,
        )
        self._clock = clock
        self._ahead = CopyAhead(self._block_size)
        self._budget = ReturnBudget(settings.copy_budget, copy_blocks=settings.copy_blocks)
        self._flushes: list[CopyJob] = []
        self._restores: list[CopyJob] = []
        self._local_blocks: dict[str, int] = {}
        """Of waiting requests that were asked about: complete blocks that the device still has."""
        self._lost_tokens: dict[str, int] = {}
        """Of preempted requests: tokens that had been computed."""
        self._discarding = False
        self._refused = False

    def attach(
        self, scheduler: Any, *, adapter: Any, counters: CopyCounters, latency: LatencyModel, transfer: TransferModel
    ) -> None:
        """Say whose connector this is, once it exists. `latency` and `transfer` are what it begins with."""
        self._scheduler = scheduler
        self._adapter = adapter
        self._counters = counters
        self._latency = latency
        self._transfer = OnlineTransfer(transfer)

    def arrived(self, request: Any) -> None:
        """vLLM has queued the request."""
        self.copies.add(request.request_id)

    def before_step(self, plan: BatchPlan | None, latency: LatencyModel) -> None:
        """A step is about to be put together, after `plan` if there is one."""
        self._latency = latency
        self._budget.begin_step()
        if plan is None or self._settings.copy_budget is not CopyBudget.ADAPTIVE:
            return
        states, requests = self._adapter.tracker.states, self._scheduler.requests
        returns: list[Restorable] = []
        tokens = attention = context = sequences = 0
        for entry in plan.entries:
            state = states[entry.id]
            if not state.resident and self.copies.holding(entry.id).ready:
                local = self._adapter.device_prefix(requests[entry.id])
                returns.append(self._restorable(entry.id, state.computed_tokens + entry.tokens, local))
                continue
            sequences += 1
            tokens += entry.tokens
            if state.is_decode:
                context += state.computed_tokens
            else:
                attention += entry.tokens * (entry.tokens + 2 * state.computed_tokens)
        if returns:
            base = StepWork(new_tokens=tokens, attention=attention, decode_context=context, sequences=sequences)
            self._budget.plan(returns, base=base, model=self._resume_model())

    def prefix_tokens(self, request: Any, local_tokens: int) -> int:
        """Tokens that the request would start from if all came back that may: for who plans."""
        local: int = local_tokens // self._block_size
        usable = self._restorable(request.request_id, request.num_tokens, local_tokens).usable(self._block_size)
        restored = self._budget.most(usable)
        return (local + restored) * self._block_size if restored else local_tokens

    def restorable_tokens(self, request: Any, local_tokens: int) -> int:
        """Tokens behind the `local_tokens` first ones whose KV comes back from the host if the request runs now."""
        request_id = request.request_id
        self._local_blocks[request_id] = local_tokens // self._block_size
        if not self.copies.holding(request_id).ready:
            return 0
        restorable = self._restorable(request_id, request.num_tokens, local_tokens)
        return self._budget.blocks(restorable, self._resume_model()) * self._block_size

    def admitted(self, request: Any, device: Sequence[int], restored_tokens: int) -> None:
        """vLLM has given the request blocks, among them those for `restored_tokens`."""
        request_id = request.request_id
        local = self._local_blocks.pop(request_id, 0)
        if restored_tokens:
            blocks = restored_tokens // self._block_size
            self._budget.taken(blocks)
            self._restores.append(self.copies.restore(request_id, device, behind=local, blocks=blocks))
            self._counters.restores.inc()
        lost = self._lost_tokens.pop(request_id, 0)
        self._counters.recomputed_tokens.inc(max(0, lost - local * self._block_size - restored_tokens))

    def preempting(self, request: Any) -> None:
        """The request is about to lose its blocks."""
        request_id = request.request_id
        device = self._device_blocks(request_id)
        if not self._discarding:
            self._complete(request)
            if self._settings.offload is Offload.ON_PREEMPT and not self._refused:
                self._flush(request_id, device)
        self._lost_tokens[request_id] = max(0, request.num_computed_tokens - request.num_in_flight_tokens)
        self._ahead.preempted(len(device))
        self.copies.preempt(request_id)

    def ended(self, request: Any) -> None:
        """vLLM is done with the request."""
        self._local_blocks.pop(request.request_id, None)
        self._lost_tokens.pop(request.request_id, None)
        self.copies.end(request.request_id)

    def step(self, output: Any) -> StepCopies:
        """The copies that begin with the step that vLLM has put together."""
        offloads: list[CopyJob] = []
        if self._settings.offload is Offload.ASYNC and not self._refused:
            offloads = self._copy_ahead(output.num_scheduled_tokens)
        copies = StepCopies(
            flushes=tuple(self._flushes),
            offloads=tuple(offloads),
            restores=tuple(self._restores),
            reload=self._settings.reload,
        )
        self._flushes, self._restores = [], []
        return copies

    def take_in(self, report: CopyReport) -> None:
        """Take in what the workers report of a step, before its output is looked at."""
        if report.refused and not self._refused:
            self._refused = True
            _logger.error("no KV blocks are copied to the host: a worker has no memory for them (%s)", report.refused)
        ended = self.copies.report(report)
        for direction, exposed_s in ((Direction.OFFLOAD, report.flushed_s), (Direction.RESTORE, report.waited_s)):
            self._measure([copy for copy in ended if copy.direction is direction], direction, exposed_s)
        failed = [copy for copy in ended if copy.direction is Direction.RESTORE and not copy.intact]
        if failed:
            self._discarding = True
            undo(self._scheduler, self.copies, failed)
            self._discarding = False
        for request_id in {copy.request_id for copy in ended if copy.direction is Direction.OFFLOAD}:
            request = self._scheduler.requests.get(request_id)
            if request is not None:
                self._adapter.tracker.look_again(request)
        self._counters.free_host_blocks.set(self.copies.ledger.free_host)

    def discard(self) -> None:
        """Forget all copies; what is preempted until `keep` is not copied either."""
        self._discarding = True
        self.copies.reset()

    def keep(self) -> None:
        """End of `discard`."""
        self._discarding = False

    def _measure(self, ended: Sequence[EndedCopy], direction: Direction, exposed_s: float) -> None:
        copy_s = size = 0.0
        for copy in ended:
            if not copy.intact:
                self._counters.failed(direction)
                continue
            blocks = len(copy.blocks)
            self._counters.arrived(direction, blocks=blocks, size=blocks * self._block_bytes)
            copy_s += copy.copy_s
            size += blocks * self._block_bytes
            if direction is Direction.OFFLOAD:
                self._observe(direction, blocks * self._block_bytes, copy.copy_s)
        if direction is Direction.RESTORE:
            # All restores of a step are one copy.
            self._observe(direction, int(size), copy_s)
        self._counters.took(direction, copy_s=copy_s, exposed_s=exposed_s)

    def _observe(self, direction: Direction, size: int, copy_s: float) -> None:
        if size and copy_s > 0:
            self._transfer.observe(direction, size=size, calls=1, measured_s=copy_s)

    def _flush(self, request_id: str, device: Sequence[int]) -> None:
        """Copy all that the request has, before the step writes to its blocks."""
        holding = self.copies.holding(request_id)
        if holding.uncopied and holding.offload is None and holding.restore is None:
            self._weigh_if_short(holding.uncopied)
            job = self._offload(request_id, device, blocks=holding.uncopied, pin=False)
            self._flushes += job

    def _copy_ahead(self, scheduled: dict[str, int]) -> list[CopyJob]:
        scheduler, ledger = self._scheduler, self.copies.ledger
        free_blocks = self._adapter.free_blocks
        now_s = self._clock()
        self._ahead.step(now_s=now_s, used_blocks=self._adapter.limits.blocks - free_blocks, idle=not scheduled)
        residents: list[Resident] = []
        under_way = 0
        for request in scheduler.running:
            self._complete(request)
            request_id = request.request_id
            holding = self.copies.holding(request_id)
            computed = request.num_computed_tokens
            under_way += holding.offload.blocks if holding.offload is not None else 0
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
        evicted = ledger.next_evicted()
        plan = self._ahead.plan(
            residents,
            free_blocks=free_blocks,
            latency=self._latency,
            offload=self._costs(Direction.OFFLOAD),
            restore=self._costs(Direction.RESTORE),
            under_way=under_way,
            next_evicted=None if evicted is None else evicted.request_id,
        )
        self._weigh_if_short(sum(offload.blocks for offload in plan))
        jobs: list[CopyJob] = []
        for offload in plan:
            device = self._device_blocks(offload.request_id)
            jobs += self._offload(offload.request_id, device, blocks=offload.blocks, pin=True)
        return jobs

    def _offload(self, request_id: str, device: Sequence[int], *, blocks: int, pin: bool) -> list[CopyJob]:
        evicted = self.copies.ledger.evicted
        job = self.copies.offload(request_id, device, blocks=blocks, pin=pin)
        self._counters.evicted_blocks.inc(self.copies.ledger.evicted - evicted)
        return [] if job is None else [job]

    def _weigh_if_short(self, blocks: int) -> None:
        """Say what everybody's host blocks are worth, if some have to give way to `blocks` new ones."""
        ledger = self.copies.ledger
        if blocks <= ledger.free_host:
            return
        now_s, states = self._clock(), self._adapter.tracker.states
        for request_id in self.copies.requests:
            holding, state = ledger.holding(request_id), states.get(request_id)
            if state is not None:
                gain = gain_left(state, now_s=now_s, step_s=self._ahead.step_s)
                probability = self._ahead.probability.get(request_id, 1.0) if holding.device else 1.0
                ledger.set_worth(request_id, copy_worth(gain, probability))

    def _restorable(self, request_id: str, tokens: int, local_tokens: int) -> Restorable:
        local = local_tokens // self._block_size
        return Restorable(
            request_id=request_id,
            tokens=tokens,
            host_blocks=max(0, self.copies.holding(request_id).ready - local),
            device_tokens=local * self._block_size,
        )

    def _resume_model(self) -> ResumeModel:
        return ResumeModel(
            block_size=self._block_size,
            costs=self._costs(Direction.RESTORE),
            latency=self._latency,
            overlap=self._overlap,
        )

    def _costs(self, direction: Direction) -> CopyCosts:
        return self._transfer.model.costs(direction, block_bytes=self._block_bytes)

    def _complete(self, request: Any) -> None:
        """Note which of the request's blocks are full and computed by steps that are over."""
        tokens = request.num_computed_tokens - request.num_in_flight_tokens
        self.copies.complete(request.request_id, max(0, tokens) // self._block_size)

    def _device_blocks(self, request_id: str) -> list[int]:
        blocks: list[int] = self._scheduler.kv_cache_manager.get_block_ids(request_id)[0]
        return blocks
