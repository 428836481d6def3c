"""What comes back from the host, in vLLM's terms: told to who plans, answered when vLLM asks, begun when it admits.

A request starts from its own host blocks or from those of another one that begins alike and has more. vLLM's hashes of
blocks say who does, and as they also decide what the device's prefix cache gives to whom, the same requests share here:
none where prefix caching is off, and not those that must compute their prompts.
"""

from collections.abc import Hashable, Sequence
from typing import Any

from proserve_core.batching import BatchPlan
from proserve_core.batching.plan_work import plan_work
from proserve_core.blocks import Direction, Overlap, Restorable, ResumeModel
from proserve_core.blocks.returns import ReturnBudget
from proserve_core.blocks.settings import CopyBudget, KvOffload
from proserve_core.latency import LatencyModel
from proserve_engine.kv.copies import Copies, Source
from proserve_engine.kv.counters import CopyCounters
from proserve_engine.kv.link import MeasuredLink
from proserve_engine.kv.messages import CopyJob


class Restoring:
    """Of one engine.

    Args:
        shared: requests may start from each other's blocks.
        layers: of the model.
    """

    def __init__(
        self,
        settings: KvOffload,
        copies: Copies,
        *,
        scheduler: Any,
        adapter: Any,
        counters: CopyCounters,
        link: MeasuredLink,
        latency: LatencyModel,
        block_size: int,
        layers: int,
        shared: bool,
    ) -> None:
        self._copies = copies
        self._scheduler = scheduler
        self._adapter = adapter
        self._counters = counters
        self._link = link
        self._latency = latency
        self._block_size = block_size
        self._overlap = Overlap(reload=settings.reload, layers=layers)
        self._adaptive = settings.copy_budget is CopyBudget.ADAPTIVE
        self._budget = ReturnBudget(settings.copy_budget, copy_blocks=settings.copy_blocks)
        self._shared = shared
        self._jobs: list[CopyJob] = []
        self._asked: dict[str, tuple[int, Source]] = {}
        """Of waiting requests that vLLM asked about: blocks that the device still has, and what the host has."""
        self._lost_tokens: dict[str, int] = {}
        """Of preempted requests: tokens that had been computed."""

    def before_step(self, plan: BatchPlan | None, latency: LatencyModel) -> None:
        """A step is about to be put together, after `plan` if there is one."""
        self._latency = latency
        self._budget.begin_step()
        if plan is None or not self._adaptive:
            return
        states, requests = self._adapter.tracker.states, self._scheduler.requests
        returns: list[Restorable] = []
        for entry in plan.entries:
            state = states[entry.id]
            if not state.resident and (source := self._source(requests[entry.id])).blocks:
                local = self._adapter.device_prefix(requests[entry.id])
                returns.append(self._restorable(entry.id, state.computed_tokens + entry.tokens, local, source))
        if returns:
            base = plan_work(plan, states, without={entry.request_id for entry in returns})
            self._budget.plan(returns, base=base, model=self.resume_model())

    def resume_model(self) -> ResumeModel:
        """How blocks come back, as far as is known."""
        return ResumeModel(
            block_size=self._block_size,
            costs=self._link.costs(Direction.RESTORE, both_busy=self._copies.sending),
            latency=self._latency,
            overlap=self._overlap,
            flush_block_s=self._link.costs(Direction.OFFLOAD).block_s,
        )

    def prefix_tokens(self, request: Any, local_tokens: int) -> int:
        """Tokens that the request would start from if all came back that may: for who plans."""
        local: int = local_tokens // self._block_size
        source = self._source(request)
        usable = self._restorable(request.request_id, request.num_tokens, local_tokens, source).usable(self._block_size)
        restored = self._budget.most(usable)
        return (local + restored) * self._block_size if restored else local_tokens

    def tokens(self, request: Any, local_tokens: int) -> int:
        """Tokens behind the `local_tokens` first ones whose KV comes back if the request runs now."""
        source = self._source(request)
        self._asked[request.request_id] = local_tokens // self._block_size, source
        if not source.blocks:
            return 0
        restorable = self._restorable(request.request_id, request.num_tokens, local_tokens, source)
        return self._budget.blocks(restorable, self.resume_model()) * self._block_size

    def admitted(self, request: Any, device: Sequence[int], restored_tokens: int) -> int:
        """vLLM has given the request blocks, among them those for `restored_tokens`.

        Returns:
            Tokens whose KV it has without computing them.
        """
        request_id = request.request_id
        local, source = self._asked.pop(request_id, (0, None))
        if restored_tokens and source is not None:
            blocks = restored_tokens // self._block_size
            self._budget.taken(blocks)
            self._jobs.append(self._copies.restore(request_id, device, behind=local, blocks=blocks, row=source.row))
            self._counters.restores.inc()
            if source.row is not self._copies.holding(request_id):
                self._counters.shared_blocks.inc(blocks)
        had = local * self._block_size + restored_tokens
        self._counters.recomputed_tokens.inc(max(0, self._lost_tokens.pop(request_id, 0) - had))
        return had

    def preempted(self, request: Any) -> None:
        """The request loses its blocks."""
        self._lost_tokens[request.request_id] = max(0, request.num_computed_tokens - request.num_in_flight_tokens)

    def ended(self, request: Any) -> None:
        """vLLM is done with the request."""
        self._asked.pop(request.request_id, None)
        self._lost_tokens.pop(request.request_id, None)

    def take(self) -> tuple[CopyJob, ...]:
        """The restores that begin with the step that vLLM has put together."""
        jobs, self._jobs = self._jobs, []
        return tuple(jobs)

    def _source(self, request: Any) -> Source:
        hashes: Sequence[Hashable] = ()
        if self._shared and not request.skip_reading_prefix_cache:
            hashes = request.block_hashes
        return self._copies.source(request.request_id, hashes)

    def _restorable(self, request_id: str, tokens: int, local_tokens: int, source: Source) -> Restorable:
        local = local_tokens // self._block_size
        return Restorable(
            request_id=request_id,
            tokens=tokens,
            host_blocks=max(0, source.blocks - local),
            device_tokens=local * self._block_size,
        )
