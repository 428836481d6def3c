"""Random schedules of an engine that copies KV blocks, each a function of its seed, with everything checked.

Requests of a few families that begin alike arrive while others run, some are aborted, copies fail, the prefix cache is
reset. Run by the engine environment's interpreter only.
"""

import random
from typing import Any

import msgspec
import pytest
from vllm.v1.request import RequestStatus

from engine_harness import BLOCK_BYTES, HIGH, LOW, Engine, PretendedCopier
from engine_policies import RandomPolicy
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler

every_scheduler = pytest.mark.parametrize(
    ("scheduler", "depth"),
    [
        pytest.param(ProServeScheduler, 1, id="sync"),
        pytest.param(ProServeAsyncScheduler, 2, id="async"),
    ],
)

FAMILIES = 3
LONGEST_PREFIX = 150


class KvSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn from `seed` is not a field."""

    seed: int
    scheduler: type
    depth: int
    """Steps in flight."""
    offload: Offload = Offload.ASYNC
    budget: CopyBudget = CopyBudget.UNLIMITED
    host_blocks: int = 200
    blocks: int = 34
    requests: int = 24
    failing: float = 0.0
    """Share of the copies that fail."""
    resets: bool = False
    """The prefix cache is reset now and then, running requests included."""
    prefix_caching: bool = True
    policy: str | None = None
    """None: plans of no sense whatever."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks by what became of them."""

    offloaded: float
    restored: float
    shared: float
    kept: float
    evicted: float
    failed_restores: float
    recomputed_tokens: float


def run_schedule(schedule: KvSchedule, model: str) -> Outcome:
    """Run it to its end.

    Raises:
        AssertionError: a slot that is not its own was read, a token is wrong, the ledger does not add up after a step,
            or something is left behind at the end.
    """
    draw = random.Random(schedule.seed)
    settings = KvOffload(
        host_memory=str(schedule.host_blocks * BLOCK_BYTES),
        offload=schedule.offload,
        copy_budget=schedule.budget,
        copy_blocks=3,
    )
    engine = Engine(
        schedule.scheduler,
        model=model,
        kv=settings,
        blocks=schedule.blocks,
        sequences=8,
        depth=schedule.depth,
        prefix_caching=schedule.prefix_caching,
        policy=schedule.policy,
    )
    if schedule.policy is None:
        engine.scheduler._proserve.adapter._policy = RandomPolicy(schedule.seed)
    engine.worker.copier = PretendedCopier(engine.worker.kv, failing=schedule.failing, seed=schedule.seed)
    copies = engine.scheduler._kv.copies
    engine.on_schedule = lambda _: copies.check()
    families = [[draw.randrange(1000) for _ in range(LONGEST_PREFIX)] for _ in range(FAMILIES)]
    for number in range(schedule.requests):
        prefix = draw.choice(families)[: draw.randrange(20, LONGEST_PREFIX)]
        engine.submit(
            f"r{number}",
            prompt=[*prefix, *[number] * draw.randrange(1, 60)],
            output=draw.randrange(1, 40),
            facts=HIGH if number % 2 else LOW,
        )
        for _ in range(draw.randrange(8)):
            if engine.scheduler.has_unfinished_requests():
                engine.step()
        if number % 6 == 5 and engine.scheduler.requests:
            gone = draw.choice(list(engine.scheduler.requests))
            engine.scheduler.finish_requests(gone, RequestStatus.FINISHED_ABORTED)
            del engine.prompts[gone]
        if schedule.resets and number % 7 == 3:
            engine.scheduler.reset_prefix_cache(reset_running_requests=True)
    engine.run()
    engine.finish_copies()
    assert engine.wrong_outputs() == {}, schedule
    outcome = Outcome(
        offloaded=count(engine.scheduler, "copied_blocks_total", direction="offload"),
        restored=count(engine.scheduler, "copied_blocks_total", direction="restore"),
        shared=count(engine.scheduler, "shared_blocks_total"),
        kept=count(engine.scheduler, "kept_host_blocks"),
        evicted=count(engine.scheduler, "evicted_blocks_total"),
        failed_restores=count(engine.scheduler, "copy_failures_total", direction="restore"),
        recomputed_tokens=count(engine.scheduler, "recomputed_tokens_total"),
    )
    assert outcome.restored == engine.worker.copier.copied
    check_that_nothing_is_left(engine)
    return outcome


def check_that_nothing_is_left(engine: Engine) -> None:
    """All blocks are free once what finished requests left on the host is forgotten."""
    engine.finish_copies()
    copies = engine.scheduler._kv.copies
    copies.check()
    assert copies.under_way == 0
    assert copies.ledger.free_host + copies.ledger.kept == copies.ledger.host_blocks
    assert engine.scheduler.reset_prefix_cache()
    copies.check()
    assert copies.ledger.free_host == copies.ledger.host_blocks
    pool = engine.scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1


def count(scheduler: Any, name: str, **labels: str) -> float:
    """A counter or gauge of copies."""
    value: Any = scheduler._proserve.metrics.registry.get_sample_value(f"proserve_engine_kv_{name}", labels)
    assert value is not None
    return float(value)
