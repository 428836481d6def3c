"""The connector's half beside the scheduler: which copies begin with a step, and what those do that have ended.

vLLM calls it through the connector, except for `before_step`, `preempting` and `take_in`, for which connectors have no
hook: these come from ProServe's scheduler. `kv_offloading` has what goes to the host, `kv_restoring` what comes back. A
copy that fails or arrives damaged is found out in the step that used it; `kv_undo` has what happens then.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from proserve_core.batching import BatchPlan
from proserve_core.blocks import Direction, ResumeModel, TransferModel
from proserve_core.blocks.settings import KvOffload
from proserve_core.blocks.way_back import WayBack
from proserve_core.latency import LatencyModel
from proserve_engine.kv.copies import Copies
from proserve_engine.kv.counters import CopyCounters
from proserve_engine.kv.link import MeasuredLink
from proserve_engine.kv.messages import CopyReport, StepCopies
from proserve_engine.vllm.kv_admissions import Admissions
from proserve_engine.vllm.kv_offloading import Offloading
from proserve_engine.vllm.kv_restoring import Restoring
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

    def __init__(self, *, settings: KvOffload, config: Any, kv_cache: Any, host_blocks: int, block_bytes: int) -> None:
        self.pool = BlockPool()
        self._settings = settings
        group = kv_cache.kv_cache_groups[0]
        self._block_size: int = group.kv_cache_spec.block_size
        self._layers = len(group.layer_names)
        self._block_bytes = block_bytes
        self._prefix_caching = bool(config.cache_config.enable_prefix_caching)
        slots: int = config.scheduler_config.max_num_seqs
        self.copies = Copies(
            # Rows of all residents, and as much again that drains.
            device_rows=2 * slots * kv_cache.num_blocks,
            host_blocks=host_blocks,
            pool=self.pool,
            workers=config.parallel_config.world_size,
        )
        self._admissions = Admissions()
        self._discarding = False

    def attach(
        self, scheduler: Any, *, adapter: Any, counters: CopyCounters, latency: LatencyModel, transfer: TransferModel
    ) -> None:
        """Say whose connector this is, once it exists. `latency` and `transfer` are what it begins with."""
        self._scheduler = scheduler
        self._adapter = adapter
        self._counters = counters
        self._latency = latency
        self._link = MeasuredLink(transfer, counters=counters, block_bytes=self._block_bytes)
        # Hashes of smaller pieces than blocks do not say what is in a block.
        self._shared = (
            self._prefix_caching and getattr(scheduler, "hash_block_size", self._block_size) == self._block_size
        )
        self._offloading = Offloading(
            self._settings,
            self.copies,
            scheduler=scheduler,
            adapter=adapter,
            admissions=self._admissions,
            counters=counters,
            link=self._link,
            block_size=self._block_size,
            shared=self._shared,
        )
        self._restoring = Restoring(
            self._settings,
            self.copies,
            scheduler=scheduler,
            adapter=adapter,
            counters=counters,
            link=self._link,
            latency=latency,
            block_size=self._block_size,
            layers=self._layers,
            shared=self._shared,
        )

    def arrived(self, request: Any) -> None:
        """vLLM has queued the request."""
        self.copies.add(request.request_id)

    def before_step(self, plan: BatchPlan | None, latency: LatencyModel) -> None:
        """A step is about to be put together, after `plan` if there is one."""
        self._latency = latency
        self._restoring.before_step(plan, latency)

    def prefix_tokens(self, request: Any, local_tokens: int) -> int:
        """Tokens that the request would start from if all came back that may: for who plans."""
        return self._restoring.prefix_tokens(request, local_tokens)

    def way_back(self, request: Any) -> tuple[WayBack, int]:
        """What of a resident's blocks would come back if it were preempted, and blocks that a copy reads."""
        return self._offloading.way_back(request)

    def resume_model(self) -> ResumeModel:
        """How blocks come back, as far as is known."""
        return self._restoring.resume_model()

    def restorable_tokens(self, request: Any, local_tokens: int) -> int:
        """Tokens behind the `local_tokens` first ones whose KV comes back from the host if the request runs now."""
        return self._restoring.tokens(request, local_tokens)

    def admitted(self, request: Any, device: Sequence[int], restored_tokens: int) -> None:
        """vLLM has given the request blocks, among them those for `restored_tokens`."""
        self._admissions.admitted(request, self._restoring.admitted(request, device, restored_tokens))

    def preempting(self, request: Any) -> None:
        """The request is about to lose its blocks."""
        self._restoring.preempted(request)
        self._offloading.preempting(request, discarding=self._discarding)

    def ended(self, request: Any) -> None:
        """vLLM is done with the request."""
        self._restoring.ended(request)
        self._admissions.ended(request)
        self.copies.end(request.request_id, keep=self._shared)
        self._count_host_blocks()

    def step(self, output: Any) -> StepCopies:
        """The copies that begin with the step that vLLM has put together."""
        flushes, offloads = self._offloading.take(output.num_scheduled_tokens, self._latency)
        self._look_again(self.copies.take_shortened())
        return StepCopies(
            flushes=tuple(flushes),
            offloads=tuple(offloads),
            restores=self._restoring.take(),
            reload=self._settings.reload,
        )

    def take_in(self, report: CopyReport) -> None:
        """Take in what the workers report of a step, before its output is looked at."""
        if report.refused and not self._offloading.refused:
            self._offloading.refused = True
            _logger.error("no KV blocks are copied to the host: a worker has no memory for them (%s)", report.refused)
        ended = self.copies.report(report)
        self._link.ended(ended, report)
        if any(copy.direction is Direction.RESTORE and not copy.intact for copy in ended):
            self._discarding = True
            undo(self._scheduler, self._admissions)
            self._discarding = False
        sent = {copy.request_id for copy in ended if copy.direction is Direction.OFFLOAD}
        self._look_again(sent | self.copies.take_shortened())
        self._count_host_blocks()

    def discard(self) -> None:
        """Forget all copies; what is preempted until `keep` is not copied either."""
        self._discarding = True
        self.copies.reset()
        self._count_host_blocks()

    def keep(self) -> None:
        """End of `discard`."""
        self._discarding = False

    def _look_again(self, request_ids: Iterable[str]) -> None:
        """The host has more or less of these requests."""
        for request_id in request_ids:
            request = self._scheduler.requests.get(request_id)
            if request is not None:
                self._adapter.tracker.look_again(request)

    def _count_host_blocks(self) -> None:
        self._counters.free_host_blocks.set(self.copies.ledger.free_host)
        self._counters.kept_host_blocks.set(self.copies.ledger.kept)
