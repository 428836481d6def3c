"""Copies of KV blocks that fail, in the ways in which they can, whatever copier the platform has.

Run by the engine environment's interpreter only.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from proserve_engine.bench.kv_link import wipe
from proserve_engine.kv.cpu_copier import CpuCopier
from proserve_engine.kv.messages import CopyJob


def spoil(copier: Any, patch: pytest.MonkeyPatch, draw: random.Random, share: float) -> None:
    """Until `patch` is undone a share of the copies raises, and blocks come back damaged or not at all."""
    restore = copier.restore

    def damaging(jobs: Sequence[CopyJob]) -> None:
        for job in jobs:
            if draw.random() < share:
                block = _memory_of(copier, draw.choice(job.host))
                if draw.random() < 0.5:
                    block.zero_()
                else:
                    block.view(-1)[draw.randrange(block.numel())] ^= 1 << draw.randrange(7)
        restore(jobs)

    def raising(copy: Callable[..., Any]) -> Callable[..., Any]:
        def sometimes(*arguments: Any, **named: Any) -> Any:
            if draw.random() < share / 3:
                raise RuntimeError("the link is down")
            return copy(*arguments, **named)

        return sometimes

    patch.setattr(copier, "restore", damaging)
    where = ((copier, "copy_in"), (copier, "copy_out")) if isinstance(copier, CpuCopier) else ((copier._on, "copy"),)
    for owner, name in where:
        patch.setattr(owner, name, raising(getattr(owner, name)))


def bring_back_empty(copier: Any, patch: pytest.MonkeyPatch) -> list[int]:
    """From now on all blocks come back empty and nobody notices; how many there were, one number per step."""
    restore = copier.restore
    emptied: list[int] = []

    def empty(jobs: Sequence[CopyJob]) -> None:
        wipe(copier)
        emptied.append(sum(len(job.host) for job in jobs))
        restore(jobs)

    patch.setattr(copier, "restore", empty)
    return emptied


def _memory_of(copier: Any, block: int) -> Any:
    """A block's bytes on the host in the first layer, or in those that lie beside it."""
    memory = copier.host.layers[0][0] if isinstance(copier, CpuCopier) else copier.mirror.memory[0]
    return memory[block]
