"""Greedy outputs of a real model stay the same when blocks of preempted requests go to the host and come back.

The model's output depends on its KV cache (`test_token_identity` proves it, and so does the negative control here), so
a block that was copied wrongly, too late or not at all would show.
"""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import random
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from engine_policies import RandomPolicy
from proserve_core.blocks import Reload
from proserve_engine.kv.settings import CopyBudget, Offload
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler
from real_engine import RealEngine, kv_settings

pytestmark = pytest.mark.timeout(240)

FEW_BLOCKS = 24
"""Two or three of the requests below fit at a time."""

ON_PREEMPT = kv_settings(offload=Offload.ON_PREEMPT, reload=Reload.BLOCKING, copy_budget=CopyBudget.UNLIMITED)


@pytest.fixture(scope="module")
def requests() -> list[tuple[list[int], int]]:
    draw = random.Random(11)
    return [
        ([draw.randrange(300, 1000) for _ in range(draw.randrange(40, 260))], 40 + 7 * number) for number in range(10)
    ]


@pytest.fixture(scope="module")
def uninterrupted(real_engine: RealEngine, requests: list[tuple[list[int], int]]) -> list[list[int]]:
    """Each request alone on plain vLLM with plenty of blocks."""
    real_engine.use(Scheduler)
    return [real_engine.generate([request], facts=False)[0] for request in requests]


@pytest.fixture(autouse=True)
def _policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "priority")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("scheduler", [ProServeScheduler, ProServeAsyncScheduler])
def test_outputs_survive_preemption_and_restore(
    real_engine: RealEngine,
    requests: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    scheduler: type,
    seed: int,
) -> None:
    in_charge = real_engine.use(
        scheduler, blocks=FEW_BLOCKS, policy=RandomPolicy(seed), prefix_caching=False, kv=ON_PREEMPT
    )
    assert real_engine.generate(requests, facts=True) == uninterrupted
    assert in_charge._proserve.adapter.preemptions > 3


def test_blocks_that_come_back_empty_change_the_output(
    real_engine: RealEngine,
    requests: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copier = real_engine.copier
    copy_in, emptied = copier.copy_in, 0

    def empty(number: int, device: Any, host: Any) -> Any:
        nonlocal emptied
        intact = copy_in(number, device, host)
        for plane in copier._device[number]:
            plane[device] = 0
        emptied += len(device)
        return intact

    monkeypatch.setattr(copier, "copy_in", empty)
    real_engine.use(ProServeScheduler, blocks=FEW_BLOCKS, policy=RandomPolicy(0), prefix_caching=False, kv=ON_PREEMPT)
    assert real_engine.generate(requests, facts=True) != uninterrupted
    assert emptied > 0
