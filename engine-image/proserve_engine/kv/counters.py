"""Counters of what copies of KV blocks did for an engine."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from proserve_core.blocks import Direction


class CopyCounters:
    """Registered when the engine copies blocks at all."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"proserve_engine_kv_{name}", text, labels, registry=registry)

        both = ("direction",)
        self._blocks = counter("copied_blocks", "KV blocks that arrived, to the host or back", both)
        self._bytes = counter("copied_bytes", "Their bytes, of all workers", both)
        self._hidden_s = counter("copy_hidden_seconds", "Time of copies while the engine computed", both)
        self._exposed_s = counter(
            "copy_exposed_seconds", "Time for which steps waited for copies, and for the engine to begin them", both
        )
        self._failures = counter(
            "copy_failures", "Copies that failed or arrived damaged; nothing of them is used", both
        )
        self.restores = counter("restores", "Requests that were admitted with blocks from the host")
        self.shared_blocks = counter("shared_blocks", "Blocks restored for another request than had them copied")
        self.recomputed_tokens = counter("recomputed_tokens", "Tokens of preempted requests that are computed again")
        self.evicted_blocks = counter("evicted_blocks", "Host blocks that gave way to those of others")
        self.free_host_blocks = Gauge(
            "proserve_engine_kv_free_host_blocks", "Host blocks without a copy", registry=registry
        )
        self.kept_host_blocks = Gauge(
            "proserve_engine_kv_kept_host_blocks", "Host blocks of requests that are done", registry=registry
        )
        # Both directions show from the start, with 0.
        for direction in Direction:
            for each in (self._blocks, self._bytes, self._hidden_s, self._exposed_s, self._failures):
                each.labels(direction.value)

    def arrived(self, direction: Direction, *, blocks: int, size: int) -> None:
        """Blocks are where they should be."""
        self._blocks.labels(direction.value).inc(blocks)
        self._bytes.labels(direction.value).inc(size)

    def failed(self, direction: Direction) -> None:
        """A copy failed."""
        self._failures.labels(direction.value).inc()

    def took(self, direction: Direction, *, copy_s: float, exposed_s: float) -> None:
        """Copies took `copy_s`, and the engine waited for them for `exposed_s`."""
        self._exposed_s.labels(direction.value).inc(exposed_s)
        self._hidden_s.labels(direction.value).inc(max(0.0, copy_s - exposed_s))
