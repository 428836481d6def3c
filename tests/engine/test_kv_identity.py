"""A real model's greedy outputs through random schedules of engines that copy KV blocks, whatever happens to copies.

Each schedule is drawn from its number: scheduler, settings, prefix cache, preemptions, chunks, requests that are
aborted, resets of the cache while copies are under way, copies that raise, blocks that are damaged or missing on the
host. `PROSERVE_KV_SCHEDULES` says how many for each test. The model's output depends on its KV cache:
`test_kv_offload` has the negative control.
"""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import os
import random
import threading
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from bad_link import spoil
from engine_policies import RandomPolicy
from proserve_core.blocks import Reload
from proserve_core.blocks.settings import CopyBudget, Offload
from proserve_engine.kv.worker import CopyWorker
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler
from real_engine import REAL_BLOCK, RealEngine, kv_settings

Requests = list[tuple[list[int], int]]
SCHEDULES = int(os.environ.get("PROSERVE_KV_SCHEDULES", "6"))


@pytest.fixture(scope="module")
def requests() -> Requests:
    """Two families that begin alike, prompts of several chunks."""
    draw = random.Random(17)
    beginnings = [[draw.randrange(300, 1000) for _ in range(4 * REAL_BLOCK)] for _ in range(2)]
    return [
        (
            [
                *beginnings[number % 2][: draw.randrange(4 * REAL_BLOCK)],
                *(draw.randrange(300, 1000) for _ in range(90)),
            ],
            30 + 6 * number,
        )
        for number in range(6)
    ]


@pytest.fixture(scope="module")
def uninterrupted(real_engine: RealEngine, requests: Requests) -> list[list[int]]:
    """Each request alone on plain vLLM with plenty of blocks and no prefix cache."""
    real_engine.use(Scheduler, prefix_caching=False)
    return [real_engine.generate([request], facts=False)[0] for request in requests]


@pytest.fixture(autouse=True)
def _policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "priority")


def count(scheduler: Any, name: str, **labels: str) -> float:
    return float(scheduler._proserve.metrics.registry.get_sample_value(f"proserve_engine_kv_{name}", labels))


def check_that_nothing_is_left(engine: RealEngine) -> None:
    engine.finish_copies()
    scheduler = engine.core.scheduler
    copies, pool = scheduler._kv.copies, scheduler.kv_cache_manager.block_pool
    copies.check()
    assert scheduler.reset_prefix_cache()
    assert copies.ledger.free_host == copies.ledger.host_blocks
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
    lanes = [thread.name for thread in threading.enumerate() if thread.name.startswith("proserve-")]
    assert sorted(set(lanes)) == sorted(lanes)


def run_schedule(engine: RealEngine, requests: Requests, scheduler: type, seed: int) -> list[list[int] | None]:
    """Outputs; None for requests that were aborted."""
    draw = random.Random(seed)
    settings = kv_settings(
        draw.choice((8, 40, 256)),
        offload=draw.choice((Offload.ASYNC, Offload.ON_PREEMPT)),
        reload=draw.choice(list(Reload)),
        copy_budget=draw.choice(list(CopyBudget)),
        copy_blocks=3,
    )
    failing = draw.choice((0.0, 0.05, 0.3))
    aborts, resets = draw.random() < 0.5, draw.random() < 0.5
    in_charge = engine.use(
        scheduler, blocks=24, policy=RandomPolicy(seed), prefix_caching=draw.random() < 0.6, kv=settings
    )

    def disturb(left: list[int]) -> list[int]:
        in_charge._kv.copies.check()
        if resets and draw.random() < 0.02:
            assert in_charge.reset_prefix_cache(reset_running_requests=True)
        return [draw.choice(left)] if aborts and len(left) > 3 and draw.random() < 0.02 else []

    with pytest.MonkeyPatch.context() as patch:
        spoil(engine.copier, patch, random.Random(seed), failing)
        return engine.step_through(requests, disturb)


def check_many(
    real_engine: RealEngine, requests: Requests, uninterrupted: list[list[int]], scheduler: type, seeds: range
) -> None:
    aborted = restored = failed = 0.0
    for seed in seeds:
        outputs = run_schedule(real_engine, requests, scheduler, seed)
        assert outputs == [None if got is None else alone for got, alone in zip(outputs, uninterrupted, strict=True)]
        aborted += outputs.count(None)
        in_charge = real_engine.core.scheduler
        restored += count(in_charge, "copied_blocks_total", direction="restore")
        failed += count(in_charge, "copy_failures_total", direction="restore")
        check_that_nothing_is_left(real_engine)
    assert min(aborted, restored, failed) > 0


@pytest.mark.parametrize("scheduler", [ProServeScheduler, ProServeAsyncScheduler])
def test_outputs_are_those_of_requests_alone(
    real_engine: RealEngine, requests: Requests, uninterrupted: list[list[int]], scheduler: type
) -> None:
    check_many(real_engine, requests, uninterrupted, scheduler, range(SCHEDULES))


@pytest.mark.usefixtures("gpus_copier")
def test_outputs_are_those_of_requests_alone_with_a_gpus_copier(
    real_engine: RealEngine, requests: Requests, uninterrupted: list[list[int]]
) -> None:
    check_many(real_engine, requests, uninterrupted, ProServeScheduler, range(SCHEDULES, 2 * SCHEDULES))


@pytest.mark.parametrize("scheduler", [ProServeScheduler, ProServeAsyncScheduler])
def test_without_the_hosts_memory_everything_is_computed_again(
    real_engine: RealEngine,
    requests: Requests,
    uninterrupted: list[list[int]],
    scheduler: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = CopyWorker(None, real_engine.connector.worker._layers, refused="no memory")
    monkeypatch.setattr(real_engine.connector, "worker", worker)
    settings = kv_settings(offload=Offload.ON_PREEMPT)
    in_charge = real_engine.use(scheduler, blocks=24, policy=RandomPolicy(0), prefix_caching=False, kv=settings)
    assert real_engine.generate(requests, facts=True) == uninterrupted
    assert count(in_charge, "copied_blocks_total", direction="offload") == 0
    assert count(in_charge, "copy_failures_total", direction="offload") >= 1
    assert count(in_charge, "restores_total") == 0
    assert count(in_charge, "recomputed_tokens_total") > 0
    check_that_nothing_is_left(real_engine)
