"""Conservation of KV blocks on the host: what comes back was copied there before, fits, and took its time.

Like the audit of work, this one does not believe the replica: it keeps each request's row of host blocks from what
steps say that they copy and evict, and works out from the link's figures how much longer copies make a step.
"""

from collections.abc import Callable, Iterable

from proserve_core.batching import EngineLimits
from proserve_core.blocks import Direction, Overlap
from proserve_core.blocks.ahead import CALL_S
from proserve_core.kv_host import KvHost, StepCopies
from proserve_core.latency import LatencyModel


class HostError(RuntimeError):
    """Blocks came back that were not there, or more are on the host than it has room for."""


class HostAudit:
    """Checks the copies of one replica."""

    def __init__(self, host: KvHost, *, limits: EngineLimits, latency: LatencyModel) -> None:
        self.restored_blocks = 0
        self.copied_blocks = 0
        """Sent to the host."""
        self.evicted_blocks = 0
        self._host = host
        self._latency = latency
        self._size = limits.block_size
        self._block_bytes = host.layout.block_bytes(limits.block_size)
        self._room = host.settings.host_bytes // self._block_bytes
        self._rows: dict[str, int] = {}

    def flushed(self, copies: StepCopies, computed: Callable[[str], int]) -> None:
        """Copies to the host, and what gave way to them. `computed`: tokens of a request before the step."""
        for request_id, blocks in (*copies.flushed, *copies.offloaded):
            self._rows[request_id] = self._rows.get(request_id, 0) + blocks
            self.copied_blocks += blocks
        for request_id, blocks in copies.evicted:
            self._rows[request_id] -= blocks
            self.evicted_blocks += blocks
        # Only now: a victim may have lost blocks to an earlier one's before its own were copied.
        for request_id, _ in (*copies.flushed, *copies.offloaded):
            if self._rows[request_id] * self._size > computed(request_id):
                raise HostError(
                    f"{request_id}: {self._rows[request_id]} blocks are copied of {computed(request_id)} tokens"
                )
        if min(self._rows.values(), default=0) < 0 or sum(self._rows.values()) > self._room:
            raise HostError(f"{sum(self._rows.values())} blocks are on the host, which has room for {self._room}")

    def restored(self, copies: StepCopies) -> dict[str, int]:
        """Tokens that come back with the step, by request."""
        for request_id, blocks in copies.restored:
            if blocks > self._rows.get(request_id, 0):
                raise HostError(
                    f"{request_id}: {blocks} blocks come back, {self._rows.get(request_id, 0)} were on the host"
                )
            self.restored_blocks += blocks
        return {request_id: blocks * self._size for request_id, blocks in copies.restored}

    def ended(self, request_ids: Iterable[str]) -> None:
        """Requests are done."""
        for request_id in request_ids:
            self._rows.pop(request_id, None)

    def step_s(self, copies: StepCopies, alone_s: float) -> float:
        """Duration of a step with `copies` that takes `alone_s` without them."""
        settings, transfer, host_s = self._host.settings, self._host.transfer, self._latency.host_s
        offload, restore = transfer.link(Direction.OFFLOAD), transfer.link(Direction.RESTORE)
        flush_s = sum(offload.copy_s(blocks * self._block_bytes, 1) for _, blocks in copies.flushed)
        blocks = sum(blocks for _, blocks in copies.restored)
        restore_s = restore.copy_s(blocks * self._block_bytes, 1) if blocks else 0.0
        restore_s *= transfer.both_busy if copies.both_ways else 1.0
        calls = len(copies.flushed) + len(copies.offloaded)
        overlap = Overlap(reload=settings.reload, layers=self._host.layout.layers)
        return flush_s + host_s + overlap.both_s(restore_s, alone_s - host_s) + CALL_S * calls
