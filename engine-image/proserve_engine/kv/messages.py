"""What the scheduler tells a worker to copy, and what the worker tells it about the copies."""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from proserve_core.blocks import Reload


class CopyJob(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks to copy: `device[i]` from or to `host[i]`."""

    number: int
    """Of the ledger's copy."""
    device: tuple[int, ...]
    host: tuple[int, ...]


class StepCopies(msgspec.Struct, frozen=True, kw_only=True):
    """The copies that begin with a step."""

    flushes: tuple[CopyJob, ...] = ()
    """To the host, done before the step computes anything: it writes to the device blocks."""
    offloads: tuple[CopyJob, ...] = ()
    """To the host, whenever there is time. Their device blocks stay as they are until the worker says it is done."""
    restores: tuple[CopyJob, ...] = ()
    """To the device, for this step."""
    reload: Reload = Reload.PIPELINED

    @property
    def waited_for(self) -> bool:
        """Whether the step waits for some of them."""
        return bool(self.flushes or self.restores)


class CopyResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a copy ended."""

    intact: bool
    """Every block arrived as it was sent."""
    copy_s: float
    """Time that it took, without waiting for others."""
    workers: int = 1
    """Workers that have reported it."""


class CopyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has to say after a step; of several workers what holds for all of them."""

    results: dict[int, CopyResult] = {}
    """Of the copies that have ended since the last report, by number."""
    waited_s: float = 0.0
    """Time for which the step waited for restores."""
    flushed_s: float = 0.0
    """Time for which the step waited for flushes."""
    refused: str = ""
    """Why the worker has no host memory; empty if it has. Then every copy fails."""

    def __add__(self, other: "CopyReport") -> "CopyReport":
        results = dict(self.results)
        for number, theirs in other.results.items():
            results[number] = together(results[number], theirs) if number in results else theirs
        return CopyReport(
            results=results,
            waited_s=max(self.waited_s, other.waited_s),
            flushed_s=max(self.flushed_s, other.flushed_s),
            refused=self.refused or other.refused,
        )


Report: TypeAlias = Callable[[], CopyReport]
"""A report that may not be complete before the step has been computed: asked for once, when its output is there."""


def together(one: CopyResult, other: CopyResult) -> CopyResult:
    """The same copy on two groups of workers."""
    return CopyResult(
        intact=one.intact and other.intact,
        copy_s=max(one.copy_s, other.copy_s),
        workers=one.workers + other.workers,
    )
