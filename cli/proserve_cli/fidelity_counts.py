"""What preemptions cost an engine whose blocks are short, counted by the engine and by the simulator of it."""

import re
from collections.abc import Mapping

import msgspec

from proserve_cli.http_get import get
from proserve_core.blocks.settings import KvOffload
from proserve_core.replica import Replica

_SAMPLE = re.compile(r"^proserve_engine_(\w+?)_total(?:\{(.*)\})? ([0-9.e+-]+)$", re.MULTILINE)


class KvCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Since the engine's start."""

    preemptions: int
    restored_blocks: int
    recomputed_tokens: int
    """Of preempted requests."""
    waited_s: float
    """Time for which steps waited for copies."""


def label_of(settings: KvOffload) -> str:
    """Short, for tables."""
    return f"{settings.offload.value}, {settings.reload.value}, {settings.copy_budget.value}"


async def measured_counts(capacity_url: str) -> KvCounts:
    """As the engine's metrics say."""
    _, body = await get(f"{capacity_url}/metrics", timeout_s=10.0)
    return counts_of(body.decode())


def counts_of(metrics: str) -> KvCounts:
    """From metrics in Prometheus' form."""
    totals: dict[str, float] = {}
    back: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(metrics):
        totals[name] = totals.get(name, 0.0) + float(value)
        if labels == 'direction="restore"':
            back[name] = float(value)
    return _counts(totals, restored=back.get("kv_copied_blocks", 0.0))


def _counts(totals: Mapping[str, float], *, restored: float) -> KvCounts:
    return KvCounts(
        preemptions=int(totals.get("preemptions", 0.0)),
        restored_blocks=int(restored),
        recomputed_tokens=int(totals.get("kv_recomputed_tokens", 0.0)),
        waited_s=totals.get("kv_copy_exposed_seconds", 0.0),
    )


def simulated_counts(replica: Replica) -> KvCounts | None:
    """The same of a simulated engine; None if it keeps no blocks."""
    host = replica.host
    if host is None:
        return None
    totals = host.totals
    return KvCounts(
        preemptions=replica.preemptions,
        restored_blocks=totals.restored_blocks,
        recomputed_tokens=totals.recomputed_tokens,
        waited_s=totals.offload_exposed_s + totals.restore_exposed_s,
    )
