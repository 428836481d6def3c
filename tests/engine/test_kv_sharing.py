"""A request restores what another one with the same beginning has on the host, on vLLM's real scheduler and model."""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import random
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from bad_link import bring_back_empty
from engine_harness import BLOCK, BLOCK_BYTES, HIGH, LOW, Engine, PretendedCopier
from engine_policies import ChosenPolicy, RandomPolicy
from kv_schedules import KvSchedule, count, every_scheduler, run_schedule
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler
from real_engine import REAL_BLOCK, RealEngine, kv_settings

BLOCKS = 64
PREFIX = list(range(100, 100 + 4 * BLOCK))


@pytest.fixture(autouse=True)
def _policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "priority")


class SharingEngine(Engine):
    """Copies who is preempted, and runs whom it is told to run."""

    def __init__(self, scheduler: type, model: str, **options: Any) -> None:
        settings = KvOffload(
            host_memory=str(64 * BLOCK_BYTES), offload=Offload.ON_PREEMPT, copy_budget=CopyBudget.UNLIMITED
        )
        super().__init__(scheduler, model=model, kv=settings, blocks=BLOCKS, sequences=8, **options)
        self.chosen = ChosenPolicy()
        self.scheduler._proserve.adapter._policy = self.chosen

    def leave_on_host(self, request_id: str = "first", **options: Any) -> None:
        """The request computes the common prefix and a tail of its own and is preempted; the device forgets it all."""
        self.submit(request_id, prompt=[*PREFIX, *[7] * 9], output=6, facts=LOW, **options)
        self.step()
        self.drain()
        self.chosen.preempt(request_id)
        for _ in range(2):
            self.step()
            self.drain()
        self.forget_on_device()

    def finish(self, request_id: str) -> None:
        """The waiting request comes back and ends; the device forgets it."""
        self.drain()
        self.forget_on_device()
        self.chosen.paused.discard(request_id)
        self.run()
        self.forget_on_device()

    def forget_on_device(self) -> None:
        """Empty vLLM's prefix cache."""
        self.scheduler.kv_cache_manager.evict_blocks(set(range(1, BLOCKS)))

    def come(self, request_id: str = "later", **options: Any) -> int:
        """A request with the common prefix arrives; tokens that it computes in its first step."""
        self.submit(request_id, prompt=[*PREFIX, *[8] * 30], output=8, facts=HIGH, **options)
        return self.step()[request_id]


@every_scheduler
def test_a_waiting_requests_blocks_serve_another_one(scheduler: type, depth: int, tiny_model: str) -> None:
    engine = SharingEngine(scheduler, tiny_model, depth=depth)
    engine.leave_on_host()
    assert engine.come() == 30
    engine.finish("first")
    assert engine.wrong_outputs() == {}
    assert count(engine.scheduler, "shared_blocks_total") == 4
    assert count(engine.scheduler, "restores_total") == 2


@every_scheduler
def test_a_finished_requests_blocks_serve_later_ones_at_once(scheduler: type, depth: int, tiny_model: str) -> None:
    engine = SharingEngine(scheduler, tiny_model, depth=depth, prefix_caching=True)
    engine.leave_on_host()
    engine.finish("first")
    assert count(engine.scheduler, "kept_host_blocks") == 4
    # Both in one step: the second one finds on the device what the first one is restoring.
    engine.submit("twin", prompt=[*PREFIX, *[9] * 20], output=8, facts=HIGH)
    assert engine.come() == 30
    engine.run()
    assert engine.wrong_outputs() == {}
    assert count(engine.scheduler, "shared_blocks_total") == 4


@every_scheduler
def test_what_the_device_still_has_is_not_restored(scheduler: type, depth: int, tiny_model: str) -> None:
    engine = SharingEngine(scheduler, tiny_model, depth=depth)
    engine.leave_on_host()
    engine.finish("first")
    engine.submit("half", prompt=[*PREFIX[: 2 * BLOCK], 5], output=1, facts=LOW)
    engine.run()
    before = engine.worker.copier.copied
    assert engine.come() == 30
    engine.run()
    assert engine.wrong_outputs() == {}
    assert engine.worker.copier.copied - before == 2


@every_scheduler
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        pytest.param({"salt": "a"}, {"salt": "b"}, id="another salt"),
        pytest.param({}, {"prompt_logprobs": 1}, id="prompt to be computed"),
    ],
)
def test_requests_that_share_nothing_on_the_device_share_nothing_here(
    scheduler: type, depth: int, theirs: dict[str, Any], ours: dict[str, Any], tiny_model: str
) -> None:
    engine = SharingEngine(scheduler, tiny_model, depth=depth)
    engine.leave_on_host(**theirs)
    assert engine.come(**ours) == len(PREFIX) + 30
    engine.finish("first")
    assert engine.come("same", **theirs) == 30
    engine.run()
    assert engine.wrong_outputs() == {}


@every_scheduler
def test_without_prefix_caching_nobody_shares(scheduler: type, depth: int, tiny_model: str) -> None:
    engine = SharingEngine(scheduler, tiny_model, depth=depth, prefix_caching=False)
    engine.leave_on_host()
    assert engine.come() == len(PREFIX) + 30
    engine.finish("first")
    assert engine.wrong_outputs() == {}
    assert engine.scheduler._kv.copies.ledger.free_host == 64


@every_scheduler
def test_a_reset_forgets_what_is_kept(scheduler: type, depth: int, tiny_model: str) -> None:
    engine = SharingEngine(scheduler, tiny_model, depth=depth)
    engine.leave_on_host()
    engine.finish("first")
    assert engine.scheduler.reset_prefix_cache()
    assert engine.scheduler._kv.copies.ledger.free_host == 64
    assert engine.come() == len(PREFIX) + 30
    engine.run()
    assert engine.wrong_outputs() == {}


@every_scheduler
def test_damage_in_anothers_blocks_costs_time_not_tokens(scheduler: type, depth: int, tiny_model: str) -> None:
    engine = SharingEngine(scheduler, tiny_model, depth=depth)
    engine.leave_on_host()
    engine.worker.copier = PretendedCopier(engine.worker.kv, failing=1.0)
    engine.come()
    engine.step()
    engine.drain()
    assert engine.scheduler._kv.copies.holding("first").usable == 0
    engine.finish("first")
    assert engine.wrong_outputs() == {}
    assert count(engine.scheduler, "copy_failures_total", direction="restore") == 1


@every_scheduler
@pytest.mark.parametrize("offload", [Offload.ASYNC, Offload.ON_PREEMPT])
@pytest.mark.parametrize(("host_blocks", "failing"), [(60, 0.0), (200, 0.2)])
def test_random_schedules_of_requests_that_begin_alike(
    scheduler: type, depth: int, offload: Offload, host_blocks: int, failing: float, tiny_model: str
) -> None:
    outcomes = [
        run_schedule(
            KvSchedule(
                seed=seed,
                scheduler=scheduler,
                depth=depth,
                offload=offload,
                host_blocks=host_blocks,
                failing=failing,
            ),
            tiny_model,
        )
        for seed in range(3)
    ]
    assert sum(outcome.shared for outcome in outcomes) > 0
    assert sum(outcome.kept for outcome in outcomes) > 0


@pytest.fixture(scope="module")
def alike() -> list[tuple[list[int], int]]:
    """Requests of two families, long beginnings in common."""
    draw = random.Random(13)
    beginnings = [[draw.randrange(300, 1000) for _ in range(5 * REAL_BLOCK)] for _ in range(2)]
    return [
        ([*beginnings[n % 2], *(draw.randrange(300, 1000) for _ in range(draw.randrange(10, 90)))], 30 + 6 * n)
        for n in range(6)
    ]


@pytest.fixture(scope="module")
def uninterrupted(real_engine: RealEngine, alike: list[tuple[list[int], int]]) -> list[list[int]]:
    """Each request alone on plain vLLM, without a prefix cache."""
    real_engine.use(Scheduler, prefix_caching=False)
    return [real_engine.generate([request], facts=False)[0] for request in alike]


def generate_twice(
    engine: RealEngine, requests: list[tuple[list[int], int]], scheduler: type, seed: int
) -> tuple[Any, list[list[int]]]:
    """All at once through random preemptions, then all again when the device has forgotten them."""
    settings = kv_settings(offload=Offload.ON_PREEMPT, copy_budget=CopyBudget.UNLIMITED)
    in_charge = engine.use(scheduler, blocks=24, policy=RandomPolicy(seed), kv=settings)
    first = engine.generate(requests, facts=True)
    in_charge.kv_cache_manager.evict_blocks(set(range(1, 24)))
    return in_charge, first + engine.generate(requests, facts=True)


@pytest.mark.parametrize("scheduler", [ProServeScheduler, ProServeAsyncScheduler])
@pytest.mark.parametrize("seed", range(2))
def test_a_real_models_outputs_are_those_of_requests_alone(
    real_engine: RealEngine,
    alike: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    scheduler: type,
    seed: int,
) -> None:
    in_charge, outputs = generate_twice(real_engine, alike, scheduler, seed)
    assert outputs == uninterrupted * 2
    assert count(in_charge, "shared_blocks_total") > 0
    assert count(in_charge, "copy_failures_total", direction="restore") == 0


def test_a_real_models_outputs_change_if_what_is_shared_comes_back_empty(
    real_engine: RealEngine,
    alike: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bring_back_empty(real_engine.copier, monkeypatch)
    in_charge, outputs = generate_twice(real_engine, alike, ProServeScheduler, 0)
    assert outputs != uninterrupted * 2
    assert count(in_charge, "shared_blocks_total") > 0
