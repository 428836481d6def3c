"""Greedy outputs of a real model are the same under any schedule. One engine for all tests, its scheduler exchanged.

The model's output depends on its KV cache (the last test proves it), so a schedule that lost, mixed up or overwrote
blocks would show. In float32, so that no near tie between two tokens is decided by the size of a batch.
"""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import os
import random
from collections.abc import Iterator
from typing import Any

from vllm import LLM, SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler

from engine_harness import HIGH, LOW
from engine_policies import RandomPolicy
from proserve_core.batching.registry import POLICIES
from proserve_core.facts import encode_facts
from proserve_engine.serve import UNIPROC_EXECUTOR
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler

pytestmark = pytest.mark.timeout(240)

BLOCK = 32
FEW_BLOCKS = 24
"""Two or three of the requests below fit at a time."""


class RealEngine:
    """A vLLM engine in this process whose scheduler can be exchanged between runs."""

    def __init__(self, model: str) -> None:
        self._llm = LLM(
            model,
            dtype="float32",
            enforce_eager=True,
            block_size=BLOCK,
            num_gpu_blocks_override=512,
            max_model_len=2048,
            max_num_seqs=8,
            max_num_batched_tokens=256,
            distributed_executor_backend=UNIPROC_EXECUTOR,
            disable_log_stats=False,
        )
        self.core = self._llm.llm_engine.engine_core.engine_core

    def use(self, scheduler_class: type, *, blocks: int = 512, policy: Any = None) -> Any:
        """Put another scheduler in charge, with an empty cache of `blocks` blocks."""
        old = self.core.scheduler
        assert not old.requests
        old.kv_cache_config.num_blocks = blocks
        old.cache_config.num_gpu_blocks = blocks
        self.core.scheduler = scheduler_class(
            vllm_config=old.vllm_config,
            kv_cache_config=old.kv_cache_config,
            structured_output_manager=old.structured_output_manager,
            block_size=old.block_size,
            hash_block_size=old.hash_block_size,
            log_stats=True,
        )
        # What the worker has to forget is told by the scheduler that knew it.
        self.core.scheduler.finished_req_ids |= old.finished_req_ids
        if policy is not None:
            self.core.scheduler._proserve.adapter._policy = policy
        return self.core.scheduler

    def generate(self, requests: list[tuple[list[int], int]], *, facts: bool) -> list[list[int]]:
        parameters = [
            SamplingParams(
                max_tokens=tokens,
                temperature=0,
                ignore_eos=True,
                extra_args=dict(encode_facts(HIGH if number % 2 else LOW, 0.0)) if facts else None,
            )
            for number, (_, tokens) in enumerate(requests)
        ]
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in requests]
        results = self._llm.generate(prompts, parameters, use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]


@pytest.fixture(scope="module")
def engine(tiny_model: str) -> Iterator[RealEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_HOST_IP", "127.0.0.1")
        patch.delenv("PROSERVE_POLICY", raising=False)
        yield RealEngine(tiny_model)


@pytest.fixture(scope="module")
def requests() -> list[tuple[list[int], int]]:
    draw = random.Random(7)
    shared = [draw.randrange(300, 1000) for _ in range(64)]
    return [
        (shared[: 32 * (n % 3)] + [draw.randrange(300, 1000) for _ in range(draw.randrange(20, 260))], 40 + 5 * n)
        for n in range(10)
    ]


@pytest.fixture(scope="module")
def uninterrupted(engine: RealEngine, requests: list[tuple[list[int], int]]) -> list[list[int]]:
    """Each request alone on plain vLLM with plenty of blocks."""
    engine.use(Scheduler)
    return [engine.generate([request], facts=False)[0] for request in requests]


@pytest.mark.parametrize(
    ("policy", "scheduler"),
    [(policy, ProServeAsyncScheduler) for policy in sorted(POLICIES)]
    + [("slide-batching", ProServeScheduler), ("random-1", ProServeScheduler), ("random-2", ProServeAsyncScheduler)],
)
def test_output_equals_an_uninterrupted_run_on_plain_vllm(
    engine: RealEngine,
    requests: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    policy: str,
    scheduler: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random_seed = policy.removeprefix("random-") if policy.startswith("random-") else None
    monkeypatch.setenv("PROSERVE_POLICY", "priority" if random_seed else policy)
    chosen = RandomPolicy(int(random_seed)) if random_seed else None
    in_charge = engine.use(scheduler, blocks=FEW_BLOCKS, policy=chosen)
    outputs = engine.generate(requests, facts=True)
    assert outputs == uninterrupted
    assert in_charge._proserve.adapter.preemptions > 0
    if policy != "fcfs":
        assert in_charge._proserve.metrics.registry.get_sample_value("proserve_engine_planned_steps_total") > 50


def test_output_depends_on_the_kv_cache(
    engine: RealEngine, requests: list[tuple[list[int], int]], uninterrupted: list[list[int]]
) -> None:
    scheduler = engine.use(ProServeScheduler)
    caches = engine.core.model_executor.driver_worker.worker.model_runner.kv_caches
    schedule, steps = scheduler.schedule, 0

    def schedule_and_forget(throttle_prefills: bool = False) -> Any:
        nonlocal steps
        steps += 1
        if steps == 20:
            for cache in caches:
                cache.zero_()
        return schedule(throttle_prefills)

    scheduler.schedule = schedule_and_forget
    outputs = engine.generate(requests[:4], facts=True)
    assert all(got != expected for got, expected in zip(outputs, uninterrupted[:4], strict=True))


def test_step_times_and_the_error_of_their_prediction_are_measured(
    engine: RealEngine, requests: list[tuple[list[int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "priority")
    scheduler = engine.use(ProServeScheduler)
    engine.generate(requests, facts=True)
    value = scheduler._proserve.metrics.registry.get_sample_value
    assert value("proserve_engine_step_seconds_count") > 50
    assert 0 < value("proserve_engine_latency_error_ratio") < 20
    assert os.environ["PROSERVE_POLICY"] == "priority"
