"""The host memory behind a replica's KV blocks: what of a preempted request is kept there, and how it comes back.

The plans are those of a real engine, made by the same objects (`blocks.ahead`, `blocks.returns`, `blocks.way_back`,
`blocks.worth`) in the order of docs/blocks.md, "In a step". Only the copies are modelled (`replica_link`).
"""

from collections.abc import Sequence

import msgspec

from proserve_core.batching.plan_work import plan_work
from proserve_core.batching.request_table import RequestTable
from proserve_core.batching.state import BatchPlan, EngineLimits, PlanEntry, RequestState, Restore
from proserve_core.blocks.ahead import CopyAhead, Resident
from proserve_core.blocks.gain_budget import Return, gain_budget
from proserve_core.blocks.holding import Copy
from proserve_core.blocks.ledger import BlockLedger
from proserve_core.blocks.offload import copy_worth
from proserve_core.blocks.restore import Overlap, Restorable, ResumeModel
from proserve_core.blocks.returns import ReturnBudget
from proserve_core.blocks.settings import Offload
from proserve_core.blocks.way_back import flush_pays, way_back
from proserve_core.blocks.worth import gain_left, likely_tokens
from proserve_core.kv_host import CopyTotals, KvHost, StepCopies
from proserve_core.latency import LatencyModel
from proserve_core.replica_link import ReplicaLink, WaitTimes


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
        self._link = ReplicaLink(
            host.transfer,
            block_bytes=self.block_bytes,
            overlap=Overlap(reload=host.settings.reload, layers=host.layout.layers),
            host_s=latency.host_s,
        )
        self._flushes = host.settings.offload is Offload.ON_PREEMPT or (
            host.settings.offload is Offload.ASYNC
            and flush_pays(
                latency=latency,
                block_size=limits.block_size,
                offload=self._link.offload,
                restore=self._link.restore,
            )
        )
        """What a victim has not on the host is copied when it is preempted."""
        self._ahead = CopyAhead(limits.block_size)
        self._budget = ReturnBudget(
            host.settings.copy_budget, copy_blocks=host.settings.copy_blocks, adaptive=host.adaptive
        )
        self._kept: set[str] = set()
        """Who waits and has blocks on the host."""
        self._lost_tokens: dict[str, int] = {}
        """Of preempted requests: tokens that had been computed."""
        self._restoring: list[Copy] = []
        self._flushed: list[tuple[str, int]] = []
        self._evicted: list[tuple[str, int]] = []
        self._waits = WaitTimes(0.0, 0.0, 0.0)
        """Of the step that runs."""
        self._now_s = 0.0

    @property
    def resume(self) -> ResumeModel:
        """How blocks come back in a step that begins now."""
        return ResumeModel(
            block_size=self._limits.block_size,
            costs=self._link.restore_costs(both_ways=self._link.busy),
            latency=self._latency,
            overlap=self._link.overlap,
            flush_block_s=self._link.offload.block_s,
        )

    @property
    def arriving_blocks(self) -> int:
        """Blocks on their way to the host."""
        return self._link.arriving_blocks

    @property
    def next_end_s(self) -> float:
        """When the next copy to the host ends; some are on their way."""
        return self._link.next_end_s

    def arrived(self, request_id: str) -> None:
        """The replica took a request."""
        self.ledger.add(request_id)

    def settle(self, now_s: float) -> int:
        """A step is about to be planned. Returns the device blocks that copies have given free since the last one."""
        self._now_s = now_s
        self._flushed, self._evicted = [], []
        released = 0
        for copy, took_s in self._link.ended(now_s):
            released += self.ledger.finish_offload(copy)
            self.totals.offloaded_blocks += copy.blocks
            self.totals.offload_hidden_s += took_s
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
        returns = [
            self._restorable(requests[entry.id], requests[entry.id].computed_tokens + entry.tokens) for entry in back
        ]
        model = self.resume
        if self._host.by_gain:
            plan, returns = self._by_gain(plan, returns, model)
            back = [entry for entry in plan.entries if entry.id in self._kept]
        self._budget.plan(returns, base=plan_work(plan, requests, without=self._kept), model=model)
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
            # Nothing of this step evicts them: what the request starts from is settled.
            self.ledger.set_worth(entry.id, float("inf"))
            if blocks:
                restores.append(Restore(entry.id, blocks))
        return msgspec.structs.replace(
            plan,
            entries=tuple(PlanEntry(entry.id, chunks.get(entry.id, entry.tokens)) for entry in plan.entries),
            restores=tuple(restores),
        )

    def _by_gain(
        self, plan: BatchPlan, returns: list[Restorable], model: ResumeModel
    ) -> tuple[BatchPlan, list[Restorable]]:
        """Leave out of the plan who had better come back later."""
        requests = self._table.by_id
        beside = (requests[entry.id] for entry in plan.entries if entry.id not in self._kept)
        found = gain_budget(
            # Who comes back brings all its tokens to come, the others one each.
            [
                Return(request=each, gain=self._gain(state) * likely_tokens(state))
                for each in returns
                for state in (requests[each.request_id],)
            ],
            model=model,
            base=plan_work(plan, requests, without=self._kept),
            base_gain=sum(map(self._gain, beside)),
        )
        wait = {each.request_id for each in returns} - found.blocks.keys()
        if not wait:
            return plan, returns
        left = msgspec.structs.replace(
            plan,
            entries=tuple(entry for entry in plan.entries if entry.id not in wait),
            order=tuple(request_id for request_id in plan.order if request_id not in wait),
        )
        return left, [each for each in returns if each.request_id not in wait]

    def preempt(self, request: RequestState, lost_tokens: int) -> None:
        """The request loses its device blocks, with `lost_tokens` computed tokens in them."""
        request_id = request.id
        holding = self.ledger.holding(request_id)
        wanted = self._host.settings.offload is Offload.ON_PREEMPT or self._gain(request) > 0
        if holding.uncopied and holding.offload is None and self._flushes and wanted:
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

    def begin(
        self, plan: BatchPlan, growing: Sequence[tuple[RequestState, int]], *, alone_s: float
    ) -> tuple[StepCopies, float]:
        """The step starts, which would take `alone_s` without copies: take its blocks and begin its copies.

        Returns:
            The copies, and the duration of the step with them; of one that runs nobody, until the next copy ends.
        """
        restored = {restore.id: restore.blocks for restore in plan.restores}
        both_ways = bool(restored) and self._link.busy
        restore_s = self._link.restore_costs(both_ways=both_ways).copy_s(sum(restored.values()))
        for request_id, blocks in restored.items():
            self._restoring.append(self.ledger.start_restore(request_id, blocks))
        for request, blocks in growing:
            self.ledger.grow(request.id, blocks - restored.get(request.id, 0))
        for entry in plan.entries:
            if entry.id in self._lost_tokens:
                self._returned(entry.id, restored.get(entry.id, 0))
        if restored:
            self._link.share(self._now_s, restore_s)
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
        self._waits = waits = self._link.waits(copies, alone_s)
        if not plan.entries:
            return copies, self._link.next_end_s - self._now_s
        return copies, alone_s + waits.offload_s + waits.restore_s

    def end_step(self) -> None:
        """The step is over, and so are its restores."""
        for copy in self._restoring:
            self.ledger.finish_restore(copy)
            self.totals.restored_blocks += copy.blocks
            self._show(self._table.by_id[copy.request_id])
        self._restoring = []
        totals, waits = self.totals, self._waits
        totals.offload_exposed_s += waits.offload_s
        totals.restore_exposed_s += waits.restore_s
        totals.restore_hidden_s += waits.restore_hidden_s

    def computed(self, request_id: str, tokens: int) -> None:
        """The request's first `tokens` tokens are computed."""
        self.ledger.complete(request_id, tokens // self._limits.block_size)
        self._show(self._table.by_id[request_id])

    def ended(self, request_id: str) -> int:
        """The request is gone. Returns the device blocks that are free now."""
        self._kept.discard(request_id)
        self._lost_tokens.pop(request_id, None)
        return self.ledger.abort(request_id)

    def _gain(self, request: RequestState) -> float:
        """Per token that it can still bring."""
        return gain_left(request, now_s=self._now_s, step_s=self._ahead.step_s)

    def _show(self, request: RequestState) -> None:
        """Tell policies what the host has of a request."""
        if request.resident:
            back = way_back(self.ledger.holding(request.id), flushes=self._flushes)
            request.copied_blocks, request.flush_blocks = back
            return
        request.copied_blocks = request.flush_blocks = 0
        usable = self._restorable(request, request.total_tokens).usable(self._limits.block_size)
        request.host_tokens = request.computed_tokens = self._budget.most(usable) * self._limits.block_size
        (self._kept.add if usable else self._kept.discard)(request.id)
        self._table.update(request)

    def _restorable(self, request: RequestState, tokens: int) -> Restorable:
        return Restorable(request_id=request.id, tokens=tokens, host_blocks=self.ledger.holding(request.id).usable)

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
            offload=self._link.offload,
            restore=self._link.restore,
            under_way=self.arriving_blocks,
            next_evicted=None if evicted is None else evicted.request_id,
        )
        self._weigh_if_short(sum(offload.blocks for offload in chosen))
        begun: list[tuple[str, int]] = []
        for offload in chosen:
            copy = self._start_offload(offload.request_id, offload.blocks)
            if copy is None:
                continue
            self._link.begin(copy, start_s)
            requests[copy.request_id].copying_blocks = copy.blocks
            self._show(requests[copy.request_id])
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
                probability = self._ahead.probability.get(request.id, 1.0) if request.resident else 1.0
                self.ledger.set_worth(request.id, copy_worth(self._gain(request), probability))
