"""Greedy outputs of a real model are the same under any schedule. One engine for all tests, its scheduler exchanged.

The model's output depends on its KV cache (the last test proves it), so a schedule that lost, mixed up or overwrote
blocks would show. In float32, so that no near tie between two tokens is decided by the size of a batch.
"""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import os
import random
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from engine_policies import RandomPolicy
from proserve_core.batching.registry import POLICIES
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler
from real_engine import RealEngine

FEW_BLOCKS = 24
"""Two or three of the requests below fit at a time."""


@pytest.fixture(scope="module")
def requests() -> list[tuple[list[int], int]]:
    draw = random.Random(7)
    shared = [draw.randrange(300, 1000) for _ in range(64)]
    return [
        (shared[: 32 * (n % 3)] + [draw.randrange(300, 1000) for _ in range(draw.randrange(20, 260))], 40 + 5 * n)
        for n in range(10)
    ]


@pytest.fixture(scope="module")
def uninterrupted(real_engine: RealEngine, requests: list[tuple[list[int], int]]) -> list[list[int]]:
    """Each request alone on plain vLLM with plenty of blocks."""
    real_engine.use(Scheduler)
    return [real_engine.generate([request], facts=False)[0] for request in requests]


@pytest.mark.parametrize(
    ("policy", "scheduler"),
    [(policy, ProServeAsyncScheduler) for policy in sorted(POLICIES)]
    + [("slide-batching", ProServeScheduler), ("random-1", ProServeScheduler), ("random-2", ProServeAsyncScheduler)],
)
def test_output_equals_an_uninterrupted_run_on_plain_vllm(
    real_engine: RealEngine,
    requests: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    policy: str,
    scheduler: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random_seed = policy.removeprefix("random-") if policy.startswith("random-") else None
    monkeypatch.setenv("PROSERVE_POLICY", "priority" if random_seed else policy)
    chosen = RandomPolicy(int(random_seed)) if random_seed else None
    in_charge = real_engine.use(scheduler, blocks=FEW_BLOCKS, policy=chosen)
    outputs = real_engine.generate(requests, facts=True)
    assert outputs == uninterrupted
    assert in_charge._proserve.adapter.preemptions > 0
    if policy != "fcfs":
        assert in_charge._proserve.metrics.registry.get_sample_value("proserve_engine_planned_steps_total") > 50


def test_output_depends_on_the_kv_cache(
    real_engine: RealEngine, requests: list[tuple[list[int], int]], uninterrupted: list[list[int]]
) -> None:
    scheduler = real_engine.use(ProServeScheduler)
    caches = real_engine.core.model_executor.driver_worker.worker.model_runner.kv_caches
    schedule, steps = scheduler.schedule, 0

    def schedule_and_forget(throttle_prefills: bool = False) -> Any:
        nonlocal steps
        steps += 1
        if steps == 20:
            for cache in caches:
                cache.zero_()
        return schedule(throttle_prefills)

    scheduler.schedule = schedule_and_forget
    outputs = real_engine.generate(requests[:4], facts=True)
    assert all(got != expected for got, expected in zip(outputs, uninterrupted[:4], strict=True))


def test_step_times_and_the_error_of_their_prediction_are_measured(
    real_engine: RealEngine, requests: list[tuple[list[int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "priority")
    scheduler = real_engine.use(ProServeScheduler)
    real_engine.generate(requests, facts=True)
    value = scheduler._proserve.metrics.registry.get_sample_value
    assert value("proserve_engine_step_seconds_count") > 50
    assert 0 < value("proserve_engine_latency_error_ratio") < 20
    assert os.environ["PROSERVE_POLICY"] == "priority"
