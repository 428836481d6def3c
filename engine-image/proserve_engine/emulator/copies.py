"""What an emulated engine's copies of KV blocks did, as the metrics that a real one has."""

from copy import copy

from prometheus_client import CollectorRegistry, generate_latest

from proserve_core.blocks import Direction
from proserve_core.kv_host import CopyTotals
from proserve_core.replica_kv import HostTier
from proserve_engine.kv.counters import CopyCounters


class EmulatedCopies:
    """Brings the counters up to date with a replica's totals whenever they are read."""

    def __init__(self, host: HostTier) -> None:
        self._host = host
        self._registry = CollectorRegistry()
        self._counters = CopyCounters(self._registry)
        self._seen = CopyTotals()

    def render(self) -> bytes:
        """Prometheus text format."""
        totals, seen, counters = self._host.totals, self._seen, self._counters
        for direction, blocks, hidden_s, exposed_s in (
            (
                Direction.OFFLOAD,
                totals.offloaded_blocks - seen.offloaded_blocks,
                totals.offload_hidden_s - seen.offload_hidden_s,
                totals.offload_exposed_s - seen.offload_exposed_s,
            ),
            (
                Direction.RESTORE,
                totals.restored_blocks - seen.restored_blocks,
                totals.restore_hidden_s - seen.restore_hidden_s,
                totals.restore_exposed_s - seen.restore_exposed_s,
            ),
        ):
            counters.arrived(direction, blocks=blocks, size=blocks * self._host.block_bytes)
            counters.took(direction, copy_s=hidden_s + exposed_s, exposed_s=exposed_s)
        counters.restores.inc(totals.restores - seen.restores)
        counters.recomputed_tokens.inc(totals.recomputed_tokens - seen.recomputed_tokens)
        counters.evicted_blocks.inc(totals.evicted_blocks - seen.evicted_blocks)
        counters.free_host_blocks.set(self._host.ledger.free_host)
        self._seen = copy(totals)
        return generate_latest(self._registry)
