"""What is copied when, on vLLM's real scheduler with a pretended worker that copies as late as it may.

The worker notices every KV slot that is read and is not the request's own, so a block that was given to somebody else
too early, or came back to the wrong place, stops the test.
"""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import random
from typing import Any

from vllm.v1.request import RequestStatus

from engine_harness import BLOCK_BYTES, HIGH, LOW, Engine, PretendedCopier
from engine_policies import RandomPolicy
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler

pytestmark = pytest.mark.timeout(180)

every_scheduler = pytest.mark.parametrize(
    ("scheduler", "depth"),
    [
        pytest.param(ProServeScheduler, 1, id="sync"),
        pytest.param(ProServeAsyncScheduler, 2, id="async"),
    ],
)


@pytest.fixture(autouse=True)
def _policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "priority")


def kv(blocks: int, **settings: Any) -> KvOffload:
    return KvOffload(host_memory=str(blocks * BLOCK_BYTES), **settings)


def engine_with(settings: KvOffload, scheduler: type, *, model: str, seed: int, **options: Any) -> Engine:
    engine = Engine(scheduler, model=model, kv=settings, **options)
    engine.scheduler._proserve.adapter._policy = RandomPolicy(seed)
    return engine


def submit_many(engine: Engine, count: int = 16) -> None:
    shared = list(range(48))
    for number in range(count):
        engine.submit(
            f"r{number}",
            prompt=shared[: 16 * (number % 4)] + [number] * (5 + 11 * number % 70),
            output=1 + 7 * number % 40,
            facts=HIGH if number % 2 else LOW,
        )


def count(engine: Engine, name: str, **labels: str) -> float:
    value = engine.scheduler._proserve.metrics.registry.get_sample_value(f"proserve_engine_kv_{name}", labels)
    assert value is not None
    return float(value)


def check_that_nothing_is_left(engine: Engine) -> None:
    engine.finish_copies()
    copies = engine.scheduler._kv.copies
    copies.check()
    assert copies.under_way == 0
    assert copies.ledger.free_host + copies.ledger.kept == copies.ledger.host_blocks
    copies.reset()
    copies.check()
    assert copies.ledger.free_host == copies.ledger.host_blocks
    pool = engine.scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1


@every_scheduler
@pytest.mark.parametrize("prefix_caching", [True, False])
@pytest.mark.parametrize("offload", [Offload.ASYNC, Offload.ON_PREEMPT])
@pytest.mark.parametrize("host_blocks", [6, 200])
def test_random_schedules_leave_outputs_identical_and_nothing_behind(
    scheduler: type, depth: int, prefix_caching: bool, offload: Offload, host_blocks: int, tiny_model: str
) -> None:
    restored = 0
    for seed in range(4):
        engine = engine_with(
            kv(host_blocks, offload=offload, copy_budget=CopyBudget.UNLIMITED),
            scheduler,
            model=tiny_model,
            seed=seed,
            blocks=34,
            sequences=8,
            depth=depth,
            prefix_caching=prefix_caching,
        )
        submit_many(engine)
        engine.on_schedule = lambda _, engine=engine: engine.scheduler._kv.copies.check()
        engine.run()
        assert engine.wrong_outputs() == {}
        check_that_nothing_is_left(engine)
        restored += engine.worker.copier.copied
        assert count(engine, "copied_blocks_total", direction="restore") == engine.worker.copier.copied
    assert restored > 0


@every_scheduler
@pytest.mark.parametrize("offload", [Offload.ASYNC, Offload.ON_PREEMPT])
def test_failed_copies_cost_time_not_tokens(scheduler: type, depth: int, offload: Offload, tiny_model: str) -> None:
    failed = 0.0
    for seed in range(4):
        engine = engine_with(
            kv(60, offload=offload, copy_budget=CopyBudget.UNLIMITED),
            scheduler,
            model=tiny_model,
            seed=seed,
            blocks=34,
            sequences=8,
            depth=depth,
        )
        engine.worker.copier = PretendedCopier(engine.worker.kv, failing=0.3, seed=seed)
        submit_many(engine)
        engine.on_schedule = lambda _, engine=engine: engine.scheduler._kv.copies.check()
        engine.run()
        assert engine.wrong_outputs() == {}
        check_that_nothing_is_left(engine)
        failed += count(engine, "copy_failures_total", direction="restore")
    assert failed > 0


@every_scheduler
def test_aborted_requests_and_a_reset_leave_nothing_behind(scheduler: type, depth: int, tiny_model: str) -> None:
    draw = random.Random(5)
    for seed in range(4):
        engine = engine_with(
            kv(60, copy_budget=CopyBudget.UNLIMITED),
            scheduler,
            model=tiny_model,
            seed=seed,
            blocks=34,
            sequences=8,
            depth=depth,
        )
        submit_many(engine)
        steps = 0
        while engine.scheduler.has_unfinished_requests():
            engine.step()
            steps += 1
            if steps % 15 == 0 and engine.scheduler.requests:
                gone = draw.choice(list(engine.scheduler.requests))
                engine.scheduler.finish_requests(gone, RequestStatus.FINISHED_ABORTED)
                engine.prompts.pop(gone, None)
            if steps % 40 == 0:
                assert engine.scheduler.reset_prefix_cache(reset_running_requests=True)
                copies = engine.scheduler._kv.copies
                assert not any(holding.ready for holding in copies.ledger.holdings)
        engine.drain()
        assert engine.wrong_outputs() == {}
        check_that_nothing_is_left(engine)


@every_scheduler
@pytest.mark.parametrize("budget", CopyBudget)
def test_a_budget_restores_a_part_and_the_rest_is_computed(
    scheduler: type, depth: int, budget: CopyBudget, tiny_model: str
) -> None:
    most = 0
    for seed in range(3):
        engine = engine_with(
            kv(200, offload=Offload.ON_PREEMPT, copy_budget=budget, copy_blocks=2),
            scheduler,
            model=tiny_model,
            seed=seed,
            blocks=34,
            sequences=8,
            depth=depth,
            prefix_caching=False,
        )
        submit_many(engine)

        def look(output: Any) -> None:
            nonlocal most
            most = max(most, sum(len(job.host) for job in output.kv_connector_metadata.copies.restores))

        engine.on_schedule = look
        engine.run()
        assert engine.wrong_outputs() == {}
        check_that_nothing_is_left(engine)
        assert count(engine, "recomputed_tokens_total") > 0
    assert most == 2 if budget is CopyBudget.FIXED else most > 2


def test_switched_off_nothing_is_copied(tiny_model: str) -> None:
    engine = engine_with(
        kv(200, offload=Offload.OFF), ProServeScheduler, model=tiny_model, seed=0, blocks=34, sequences=8
    )
    submit_many(engine)
    engine.run()
    assert engine.wrong_outputs() == {}
    assert count(engine, "copied_blocks_total", direction="offload") == 0
    assert count(engine, "recomputed_tokens_total") > 0
