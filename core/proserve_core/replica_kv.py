"""The host memory behind a replica's KV blocks: what of a preempted request is kept there, and how it comes back.

The plans are those of a real engine, made by the same objects (`blocks.ahead`, `blocks.returns`, `blocks.worth`) in the
order of docs/blocks.md, "In a step". Only the copies are modelled:

- One link each way. Copies ahead run one after the other behind the steps; those of a step that restores begin when its
  restores are done, and who is under way meanwhile goes on at the pace of a link that is busy both ways.
- A step waits for its restores as `Overlap` says, for flushes (`OnPreempt`) before it computes, and for `CALL_S` per
  copy that begins with it: work on the engine's thread.
- Copies don't fail. If all blocks are held by copies, the engine waits for the next of them to end.
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from proserve_core.batching.request_table import RequestTable
from proserve_core.batching.state import BatchPlan, EngineLimits, PlanEntry, RequestState, Restore
from proserve_core.blocks.ahead import CALL_S, CopyAhead, Resident
from proserve_core.blocks.holding import Copy
from proserve_core.blocks.kv_layout import KV_LAYOUTS, KvLayout
from proserve_core.blocks.ledger import BlockLedger
from proserve_core.blocks.offload import copy_worth
from proserve_core.blocks.restore import Overlap, Restorable, ResumeModel
from proserve_core.blocks.returns import AdaptiveRule, ReturnBudget, shortest
from proserve_core.blocks.settings import KvOffload, Offload
from proserve_core.blocks.transfer import TRANSFERS, CopyCosts, Direction, TransferModel
from proserve_core.blocks.worth import gain_left
from proserve_core.latency import LatencyModel, StepWork
from proserve_core.latency.calibrations import Calibration


class KvHost(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica's host memory is like."""

    settings: KvOffload
    transfer: TransferModel
    layout: KvLayout
    adaptive: AdaptiveRule = shortest
    """The adaptive budget's rule."""


def host_of(calibration: Calibration, settings: KvOffload | None) -> KvHost | None:
    """Host memory with these settings behind a calibrated engine; None without settings.

    Raises:
        KvOffloadError: it has no room for a block.
    """
    if settings is None:
        return None
    layout = KV_LAYOUTS[calibration.model]
    settings.host_blocks(block_bytes=layout.block_bytes(calibration.block_size))
    return KvHost(settings=settings, transfer=TRANSFERS[calibration.gpu], layout=layout)


class StepCopies(msgspec.Struct, frozen=True, kw_only=True):
    """The copies of one step. Blocks by request."""

    restored: tuple[tuple[str, int], ...]
    flushed: tuple[tuple[str, int], ...]
    """To the host before the step computes."""
    offloaded: tuple[tuple[str, int], ...]
    """To the host behind steps, from this one on."""
    evicted: tuple[tuple[str, int], ...]
    both_ways: bool
    """The restores share the link with copies to the host."""


class CopyTotals(msgspec.Struct, kw_only=True):
    """What the copies did so far. Blocks count when they arrive."""

    offloaded_blocks: int = 0
    restored_blocks: int = 0
    restores: int = 0
    """Preempted requests that came back with blocks from the host."""
    recomputed_tokens: int = 0
    """Tokens of preempted requests that were computed again."""
    evicted_blocks: int = 0
    offload_hidden_s: float = 0.0
    """Time of copies behind compute."""
    offload_exposed_s: float = 0.0
    """Time for which steps waited for them."""
    restore_hidden_s: float = 0.0
    restore_exposed_s: float = 0.0


class HostTier:
    """One replica's blocks on device and host. The replica's requests are in `table`; times are on its clock."""

    def __init__(self, host: KvHost, *, table: RequestTable, limits: EngineLimits, latency: LatencyModel) -> None:
        self.totals = CopyTotals()
        self.block_bytes = host.layout.block_bytes(limits.block_size)
        self.ledger = BlockLedger(
            device_blocks=limits.blocks, host_blocks=host.settings.host_blocks(block_bytes=self.block_bytes)
        )
        self._host = host
        self._table = table
        self._limits = limits
        self._latency = latency
        self._overlap = Overlap(reload=host.settings.reload, layers=host.layout.layers)
        self._offload = self._costs(Direction.OFFLOAD)
        self._ahead = CopyAhead(limits.block_size)
        self._budget = ReturnBudget(
            host.settings.copy_budget, copy_blocks=host.settings.copy_blocks, adaptive=host.adaptive
        )
        self._under_way: deque[tuple[float, Copy]] = deque()
        """Copies to the host and when they end, in this order."""
        self._kept: set[str] = set()
        """Who waits and has blocks on the host."""
        self._lost_tokens: dict[str, int] = {}
        """Of preempted requests: tokens that had been computed."""
        self._restoring: list[Copy] = []
        self._flushed: list[tuple[str, int]] = []
        self._evicted: list[tuple[str, int]] = []
        self._now_s = 0.0

    @property
    def resume(self) -> ResumeModel:
        """How blocks come back in a step that begins now."""
        return ResumeModel(
            block_size=self._limits.block_size,
            costs=self._costs(Direction.RESTORE, both_busy=bool(self._under_way)),
            latency=self._latency,
            overlap=self._overlap,
        )

    @property
    def arriving_blocks(self) -> int:
        """Blocks on their way to the host."""
        return sum(copy.blocks for _, copy in self._under_way)

    @property
    def next_end_s(self) -> float:
        """When the next copy to the host ends; some are on their way."""
        return self._under_way[0][0]

    def arrived(self, request_id: str) -> None:
        """The replica took a request."""
        self.ledger.add(request_id)

    def settle(self, now_s: float) -> int:
        """A step is about to be planned. Returns the device blocks that copies have given free since the last one."""
        self._now_s = now_s
        self._flushed, self._evicted = [], []
        released = 0
        while self._under_way and self._under_way[0][0] <= now_s:
            _, copy = self._under_way.popleft()
            released += self.ledger.finish_offload(copy)
            self.totals.offloaded_blocks += copy.blocks
            request = self._table.by_id.get(copy.request_id)
            if request is not None:
                request.copying_blocks = 0
                self._show(request)
        return released

    def admit(self, plan: BatchPlan) -> BatchPlan:
        """Say how many blocks come back of those that the plan brings back; the rest of their tokens is computed."""
        self._budget.begin_step()
        back = [entry for entry in plan.entries if entry.id in self._kept] if self._kept else []
        if not back:
            return plan
        requests, size = self._table.by_id, self._limits.block_size
        states = [requests[entry.id] for entry in back]
        returns = [
            self._restorable(state, state.computed_tokens + entry.tokens)
            for state, entry in zip(states, back, strict=True)
        ]
        model = self.resume
        self._budget.plan(returns, base=self._base(plan), model=model)
        spare = max(0, self._limits.max_step_tokens - sum(entry.tokens for entry in plan.entries))
        chunks: dict[str, int] = {}
        restores: list[Restore] = []
        for entry, request in zip(back, returns, strict=True):
            blocks = self._budget.blocks(request, model)
            self._budget.taken(blocks)
            chunk = min(request.tokens - blocks * size, entry.tokens + spare)
            spare -= chunk - entry.tokens
            chunks[entry.id] = chunk
            requests[entry.id].computed_tokens = blocks * size
            requests[entry.id].copied_blocks = self.ledger.holding(entry.id).usable
            # Nothing of this step evicts them: what the request starts from is settled.
            self.ledger.set_worth(entry.id, float("inf"))
            if blocks:
                restores.append(Restore(entry.id, blocks))
        return msgspec.structs.replace(
            plan,
            entries=tuple(PlanEntry(entry.id, chunks.get(entry.id, entry.tokens)) for entry in plan.entries),
            restores=tuple(restores),
        )

    def preempt(self, request: RequestState, lost_tokens: int) -> None:
        """The request loses its device blocks, with `lost_tokens` computed tokens in them."""
        request_id = request.id
        holding = self.ledger.holding(request_id)
        if holding.uncopied and holding.offload is None and self._flushes(request, lost_tokens):
            self._weigh_if_short(holding.uncopied)
            copy = self._start_offload(request_id, holding.uncopied)
            if copy is not None:
                self.ledger.finish_offload(copy)
                self.totals.offloaded_blocks += copy.blocks
                self._flushed.append((request_id, copy.blocks))
        self._lost_tokens[request_id] = lost_tokens
        self._ahead.preempted(holding.device)
        if holding.device:
            self.ledger.preempt(request_id)
        request.copying_blocks = 0
        self._show(request)

    def begin(self, plan: BatchPlan, growing: Sequence[tuple[RequestState, int]], *, alone_s: float) -> StepCopies:
        """The step starts, which would take `alone_s` without copies: take its blocks and begin its copies."""
        restored = {restore.id: restore.blocks for restore in plan.restores}
        both_ways = bool(self._under_way and restored)
        restore_s = self.resume.costs.copy_s(sum(restored.values()))
        for request_id, blocks in restored.items():
            self._restoring.append(self.ledger.start_restore(request_id, blocks))
        for request, blocks in growing:
            self.ledger.grow(request.id, blocks - restored.get(request.id, 0))
        for entry in plan.entries:
            if entry.id in self._lost_tokens:
                self._returned(entry.id, restored.get(entry.id, 0))
        if restored:
            self._delay(restore_s)
        offloaded: list[tuple[str, int]] = []
        if self._host.settings.offload is Offload.ASYNC:
            offloaded = self._copy_ahead(plan, self._now_s + restore_s)
        copies = StepCopies(
            restored=tuple(restored.items()),
            flushed=tuple(self._flushed),
            offloaded=tuple(offloaded),
            evicted=tuple(self._evicted),
            both_ways=both_ways,
        )
        self._count_time(copies, restore_s, alone_s)
        return copies

    def step_s(self, copies: StepCopies, alone_s: float) -> float:
        """Duration of a step with these copies that would take `alone_s` without them."""
        if copies.restored:
            host_s = self._latency.host_s
            costs = self._costs(Direction.RESTORE, both_busy=copies.both_ways)
            restore_s = costs.copy_s(sum(blocks for _, blocks in copies.restored))
            alone_s = host_s + self._overlap.both_s(restore_s, alone_s - host_s)
        flushed_s = sum(self._offload.copy_s(blocks) for _, blocks in copies.flushed)
        return flushed_s + alone_s + CALL_S * (len(copies.flushed) + len(copies.offloaded))

    def end_step(self) -> None:
        """The step is over, and so are its restores."""
        for copy in self._restoring:
            self.ledger.finish_restore(copy)
            self.totals.restored_blocks += copy.blocks
        self._restoring = []

    def computed(self, request_id: str, tokens: int) -> None:
        """The request's first `tokens` tokens are computed."""
        blocks = tokens // self._limits.block_size
        self.ledger.complete(request_id, blocks)
        if self._host.settings.offload is Offload.ON_PREEMPT:
            self._table.by_id[request_id].copied_blocks = blocks

    def ended(self, request_id: str) -> int:
        """The request is gone. Returns the device blocks that are free now."""
        self._kept.discard(request_id)
        self._lost_tokens.pop(request_id, None)
        return self.ledger.abort(request_id)

    def _flushes(self, request: RequestState, lost_tokens: int) -> bool:
        """Whether what the request has not yet on the host is copied while the step waits."""
        when = self._host.settings.offload
        if when is Offload.ASYNC:
            return self._ahead.rest_pays(
                gain=gain_left(request, now_s=self._now_s, step_s=self._ahead.step_s),
                context=lost_tokens,
                latency=self._latency,
                offload=self._offload,
                restore=self._costs(Direction.RESTORE),
            )
        return when is Offload.ON_PREEMPT

    def _show(self, request: RequestState) -> None:
        """Tell policies what the host has of a request."""
        if request.resident:
            request.copied_blocks = self.ledger.holding(request.id).usable
            return
        request.copied_blocks = 0
        usable = self._restorable(request, request.total_tokens).usable(self._limits.block_size)
        request.host_tokens = request.computed_tokens = self._budget.most(usable) * self._limits.block_size
        (self._kept.add if usable else self._kept.discard)(request.id)
        self._table.update(request)

    def _restorable(self, request: RequestState, tokens: int) -> Restorable:
        return Restorable(request_id=request.id, tokens=tokens, host_blocks=self.ledger.holding(request.id).usable)

    def _base(self, plan: BatchPlan) -> StepWork:
        """What the plan runs beside those that it brings back."""
        tokens = attention = context = sequences = 0
        for entry in plan.entries:
            request = self._table.by_id.get(entry.id)
            if request is None or entry.id in self._kept:
                continue
            sequences += 1
            tokens += entry.tokens
            if request.is_decode:
                context += request.computed_tokens
            else:
                attention += entry.tokens * (entry.tokens + 2 * request.computed_tokens)
        return StepWork(new_tokens=tokens, attention=attention, decode_context=context, sequences=sequences)

    def _returned(self, request_id: str, blocks: int) -> None:
        lost = self._lost_tokens.pop(request_id)
        self._kept.discard(request_id)
        self.totals.restores += blocks > 0
        self.totals.recomputed_tokens += max(0, lost - blocks * self._limits.block_size)

    def _copy_ahead(self, plan: BatchPlan, start_s: float) -> list[tuple[str, int]]:
        """Begin the copies that go to the host behind this step, from `start_s` on."""
        ledger, requests, size = self.ledger, self._table.by_id, self._limits.block_size
        chunks = {entry.id: entry.tokens for entry in plan.entries}
        in_use = ledger.device_blocks - ledger.free_device - ledger.draining
        self._ahead.step(now_s=self._now_s, used_blocks=in_use, idle=not chunks)
        longest = self._limits.blocks * size
        residents: list[Resident] = []
        for request_id in plan.order:
            request, holding = requests[request_id], ledger.holding(request_id)
            residents.append(
                Resident(
                    request_id=request_id,
                    blocks=holding.device,
                    uncopied=holding.uncopied,
                    copying=holding.offload is not None or holding.restore is not None,
                    context=request.computed_tokens,
                    pending=request.pending_tokens,
                    chunk=chunks.get(request_id, 0),
                    emitted=request.emitted_tokens,
                    most_output=request.clues.max_tokens or longest,
                )
            )
        evicted = ledger.next_evicted()
        chosen = self._ahead.plan(
            residents,
            free_blocks=ledger.free_device,
            latency=self._latency,
            offload=self._offload,
            restore=self._costs(Direction.RESTORE),
            under_way=self.arriving_blocks,
            next_evicted=None if evicted is None else evicted.request_id,
        )
        self._weigh_if_short(sum(offload.blocks for offload in chosen))
        begun: list[tuple[str, int]] = []
        for offload in chosen:
            copy = self._start_offload(offload.request_id, offload.blocks)
            if copy is None:
                continue
            begin_s = max(start_s, self._under_way[-1][0] if self._under_way else 0.0)
            self._under_way.append((begin_s + self._offload.copy_s(copy.blocks), copy))
            requests[copy.request_id].copying_blocks = copy.blocks
            begun.append((copy.request_id, copy.blocks))
        return begun

    def _start_offload(self, request_id: str, blocks: int) -> Copy | None:
        copy, evictions = self.ledger.start_offload(request_id, blocks)
        for eviction in evictions:
            self.totals.evicted_blocks += eviction.blocks
            self._evicted.append((eviction.holding.request_id, eviction.blocks))
            self._show(self._table.by_id[eviction.holding.request_id])
        return copy

    def _weigh_if_short(self, blocks: int) -> None:
        """Say what everybody's host blocks are worth, if some have to give way to `blocks` new ones."""
        if blocks <= self.ledger.free_host:
            return
        for request in self._table.by_id.values():
            holding = self.ledger.holding(request.id)
            if holding.worth < float("inf") or holding.device:
                gain = gain_left(request, now_s=self._now_s, step_s=self._ahead.step_s)
                probability = self._ahead.probability.get(request.id, 1.0) if request.resident else 1.0
                self.ledger.set_worth(request.id, copy_worth(gain, probability))

    def _delay(self, restore_s: float) -> None:
        """Copies under way share the link with restores that take `restore_s`."""
        if not self._under_way:
            return
        factor = self._host.transfer.both_busy
        left_s = self._under_way[-1][0] - self._now_s
        delay_s = min(restore_s, left_s * factor) * (1 - 1 / factor)
        self._under_way = deque((end_s + delay_s, copy) for end_s, copy in self._under_way)

    def _count_time(self, copies: StepCopies, restore_s: float, alone_s: float) -> None:
        totals, forward_s = self.totals, alone_s - self._latency.host_s
        exposed_s = self._overlap.both_s(restore_s, forward_s) - forward_s
        totals.restore_exposed_s += exposed_s
        totals.restore_hidden_s += max(0.0, restore_s - exposed_s)
        totals.offload_exposed_s += sum(self._offload.copy_s(blocks) for _, blocks in copies.flushed)
        totals.offload_exposed_s += CALL_S * (len(copies.flushed) + len(copies.offloaded))
        totals.offload_hidden_s += sum(self._offload.copy_s(blocks) for _, blocks in copies.offloaded)

    def _costs(self, direction: Direction, *, both_busy: bool = False) -> CopyCosts:
        return self._host.transfer.costs(direction, block_bytes=self.block_bytes, both_busy=both_busy)
