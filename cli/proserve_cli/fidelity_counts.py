"""What preemptions cost an engine whose blocks are short, counted by the engine and by the simulator of it."""

import re
from collections.abc import Mapping

import msgspec

from proserve_cli.http_get import get
from proserve_core.blocks import Direction, TransferModel
from proserve_core.blocks.settings import KvOffload
from proserve_core.blocks.transfer import LinkModel
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


async def metrics_of(capacity_url: str) -> str:
    """What the engine counts, in Prometheus' form."""
    _, body = await get(f"{capacity_url}/metrics", timeout_s=10.0)
    return body.decode()


def counts_of(metrics: str) -> KvCounts:
    """From an engine's metrics."""
    totals: dict[str, float] = {}
    back: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(metrics):
        totals[name] = totals.get(name, 0.0) + float(value)
        if labels == 'direction="restore"':
            back[name] = float(value)
    return _counts(totals, restored=back.get("kv_copied_blocks", 0.0))


def transfer_of(metrics: str, preset: TransferModel) -> TransferModel:
    """How fast the engine's copies were; the preset for a direction in which nothing was copied."""
    bytes_: dict[str, float] = {}
    spent_s: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(metrics):
        if name == "kv_copied_bytes":
            bytes_[labels] = float(value)
        elif name in ("kv_copy_hidden_seconds", "kv_copy_exposed_seconds"):
            spent_s[labels] = spent_s.get(labels, 0.0) + float(value)

    def link(direction: Direction) -> LinkModel:
        label = f'direction="{direction.value}"'
        if not bytes_.get(label):
            return preset.link(direction)
        # Copies are of many sizes, so all of their time goes to the bytes.
        return LinkModel(call_s=0.0, byte_s=spent_s[label] / bytes_[label])

    return TransferModel(offload=link(Direction.OFFLOAD), restore=link(Direction.RESTORE))


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
