"""The connector's half beside the scheduler: what is copied, in vLLM's terms.

vLLM calls it through the connector, except for `preempting` and `take_in`, of which a connector is not told: those come
from ProServe's scheduler. A copy that fails or arrives damaged is found out in the step that used it. Then everything
computed from these blocks is undone: requests that have them lose all blocks from the first of these on and their
output in flight, and are computed again.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from proserve_core.blocks import Direction
from proserve_engine.kv.copies import Copies
from proserve_engine.kv.messages import CopyJob, CopyReport, StepCopies
from proserve_engine.kv.settings import KvOffload, Offload

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
    """Lives as long as the scheduler. All methods are called from the engine's thread."""

    def __init__(self, *, settings: KvOffload, config: Any, kv_cache: Any, host_blocks: int) -> None:
        self.pool = BlockPool()
        self._settings = settings
        self._block_size: int = kv_cache.kv_cache_groups[0].kv_cache_spec.block_size
        slots: int = config.scheduler_config.max_num_seqs
        self.copies = Copies(
            # Rows of all residents, and as much again that drains.
            device_rows=2 * slots * kv_cache.num_blocks,
            host_blocks=host_blocks,
            pool=self.pool,
            workers=config.parallel_config.world_size,
        )
        self._scheduler: Any = None
        self._flushes: list[CopyJob] = []
        self._restores: list[CopyJob] = []
        self._local_blocks: dict[str, int] = {}
        """Of waiting requests that were asked about: complete blocks that the device still has."""
        self._discarding = False

    def attach(self, scheduler: Any) -> None:
        """Say whose connector this is, once it exists."""
        self._scheduler = scheduler

    def arrived(self, request: Any) -> None:
        """vLLM has queued the request."""
        self.copies.add(request.request_id)

    def restorable_tokens(self, request: Any, local_tokens: int) -> int:
        """Tokens behind the `local_tokens` first ones whose KV would come back from the host if it ran now."""
        local: int = local_tokens // self._block_size
        self._local_blocks[request.request_id] = local
        ready = self.copies.holding(request.request_id).ready
        # One token at least is computed: the next one comes out of it.
        usable: int = min(ready, (request.num_tokens - 1) // self._block_size)
        return max(0, usable - local) * self._block_size

    def admitted(self, request: Any, device: Sequence[int], restored_tokens: int) -> None:
        """vLLM has given the request blocks, among them those for `restored_tokens`."""
        local = self._local_blocks.pop(request.request_id, 0)
        if restored_tokens:
            blocks = restored_tokens // self._block_size
            self._restores.append(self.copies.restore(request.request_id, device, behind=local, blocks=blocks))

    def preempting(self, request: Any) -> None:
        """The request is about to lose its blocks."""
        request_id = request.request_id
        if self._settings.offload is Offload.ON_PREEMPT and not self._discarding:
            self._complete(request)
            holding = self.copies.holding(request_id)
            if holding.uncopied and holding.offload is None:
                device = self._device_blocks(request_id)
                job = self.copies.offload(request_id, device, blocks=holding.uncopied, pin=False)
                if job is not None:
                    self._flushes.append(job)
        self.copies.preempt(request_id)

    def ended(self, request: Any) -> None:
        """vLLM is done with the request."""
        self._local_blocks.pop(request.request_id, None)
        self.copies.end(request.request_id)

    def step(self) -> StepCopies:
        """The copies that begin with the step that vLLM has put together."""
        copies = StepCopies(flushes=tuple(self._flushes), restores=tuple(self._restores), reload=self._settings.reload)
        self._flushes, self._restores = [], []
        return copies

    def take_in(self, report: CopyReport) -> None:
        """Take in what the workers report of a step, before its output is looked at."""
        damaged: set[int] = set()
        failed: set[str] = set()
        for ended in self.copies.report(report):
            if not ended.intact and ended.direction is Direction.RESTORE:
                damaged.update(ended.blocks)
                failed.add(ended.request_id)
        if damaged:
            self._undo(damaged, failed)

    def discard(self) -> None:
        """Forget all copies; what is preempted until `keep` is not copied either."""
        self._discarding = True
        self.copies.reset()

    def keep(self) -> None:
        """End of `discard`."""
        self._discarding = False

    def _undo(self, damaged: set[int], failed: Iterable[str]) -> None:
        scheduler = self._scheduler
        self._discarding = True
        affected = True
        while affected:
            affected = False
            for request in scheduler.running.copy():
                request_id = request.request_id
                device = self._device_blocks(request_id)
                first = next((place for place, block in enumerate(device) if block in damaged), None)
                if first is None:
                    continue
                affected = True
                damaged.update(device[first:])
                if request_id not in failed:
                    # It found them in the prefix cache, and may have copied them since.
                    self.copies.drop(request_id)
                scheduler.running.remove(request)
                scheduler._preempt_request(request, time.monotonic(), drop_stale_output=True)
                # It may run again in the next step, and the worker has to be told its tokens anew.
                scheduler.prev_step_scheduled_req_ids.discard(request_id)
        scheduler.kv_cache_manager.evict_blocks(damaged)
        self._discarding = False
        _logger.warning("restored KV blocks of %s were damaged: computing them again", ", ".join(failed))

    def _complete(self, request: Any) -> None:
        """Note which of the request's blocks are full and computed by steps that are over."""
        tokens = request.num_computed_tokens - request.num_in_flight_tokens
        self.copies.complete(request.request_id, max(0, tokens) // self._block_size)

    def _device_blocks(self, request_id: str) -> list[int]:
        blocks: list[int] = self._scheduler.kv_cache_manager.get_block_ids(request_id)[0]
        return blocks
