"""What is copied when, on vLLM's real scheduler with a pretended worker that copies as early or as late as it may.

The worker notices every KV slot that is read and is not the request's own, so a block that was given to somebody else
too early, or came back to the wrong place, stops the test.
"""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import itertools
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine_harness import BLOCK, BLOCK_BYTES, HIGH, LOW, Engine
from engine_policies import ChosenPolicy, RandomPolicy, ScriptedPolicy
from kv_schedules import KvSchedule, check_that_nothing_is_left, count, every_scheduler, run_schedule
from proserve_core.batching import BatchPlan, EngineState
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.registry import POLICIES
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler


@pytest.fixture(autouse=True)
def _policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "priority")


def kv(blocks: int, **settings: Any) -> KvOffload:
    return KvOffload(host_memory=str(blocks * BLOCK_BYTES), **settings)


def engine_with(offloading: KvOffload, scheduler: type, *, model: str, seed: int, **options: Any) -> Engine:
    engine = Engine(scheduler, model=model, kv=offloading, **options)
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


@every_scheduler
@pytest.mark.parametrize("prefix_caching", [True, False])
@pytest.mark.parametrize("offload", [Offload.ASYNC, Offload.ON_PREEMPT])
@pytest.mark.parametrize("host_blocks", [6, 200])
def test_random_schedules_leave_outputs_identical_and_nothing_behind(
    scheduler: type, depth: int, prefix_caching: bool, offload: Offload, host_blocks: int, tiny_model: str
) -> None:
    outcomes = [
        run_schedule(
            KvSchedule(
                seed=seed,
                scheduler=scheduler,
                depth=depth,
                offload=offload,
                host_blocks=host_blocks,
                prefix_caching=prefix_caching,
            ),
            tiny_model,
        )
        for seed in range(3)
    ]
    assert sum(outcome.restored for outcome in outcomes) > 0
    assert (sum(outcome.evicted for outcome in outcomes) > 0) == (host_blocks == 6)


@every_scheduler
@pytest.mark.parametrize("offload", [Offload.ASYNC, Offload.ON_PREEMPT])
def test_failed_copies_cost_time_not_tokens(scheduler: type, depth: int, offload: Offload, tiny_model: str) -> None:
    outcomes = [
        run_schedule(KvSchedule(seed=seed, scheduler=scheduler, depth=depth, offload=offload, failing=0.3), tiny_model)
        for seed in range(3)
    ]
    assert sum(outcome.failed_restores for outcome in outcomes) > 0
    assert sum(outcome.recomputed_tokens for outcome in outcomes) > 0


@every_scheduler
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_gets_along_with_what_the_host_has(
    scheduler: type, depth: int, policy: str, tiny_model: str
) -> None:
    for offload in (Offload.ASYNC, Offload.ON_PREEMPT):
        schedule = KvSchedule(
            seed=1, scheduler=scheduler, depth=depth, offload=offload, budget=CopyBudget.ADAPTIVE, policy=policy
        )
        run_schedule(schedule, tiny_model)


@every_scheduler
@pytest.mark.parametrize("offload", [Offload.ASYNC, Offload.ON_PREEMPT])
def test_policies_are_told_what_the_host_has_and_what_a_flush_will_add(
    scheduler: type, depth: int, offload: Offload, tiny_model: str
) -> None:
    engine = engine_with(
        kv(200, offload=offload, copy_budget=CopyBudget.UNLIMITED),
        scheduler,
        model=tiny_model,
        seed=0,
        blocks=34,
        sequences=8,
        depth=depth,
        prefix_caching=False,
    )
    policy: BatchingPolicy = engine.scheduler._proserve.adapter._policy
    seen = [0, 0, 0]

    def plan(state: EngineState) -> BatchPlan:
        assert state.resume is not None
        assert state.resume.flush_block_s > 0
        for request in state.requests:
            assert request.copied_blocks * BLOCK <= request.computed_tokens or not request.resident
            seen[0] += request.resident and request.copied_blocks > 0
            assert request.flush_blocks <= request.copied_blocks
            seen[2] += request.flush_blocks > 0
            seen[1] += not request.resident and request.host_tokens == request.computed_tokens > 0
        return policy.plan(state)

    engine.scheduler._proserve.adapter._policy = ScriptedPolicy(plan)
    submit_many(engine)
    engine.run()
    assert engine.wrong_outputs() == {}
    assert min(seen) > 0


def damage_that_outlives_its_request(seed: int, offload: Offload, failing: float) -> KvSchedule:
    """A request loses blocks while they come back damaged, and others find in the prefix cache what it had computed."""
    return KvSchedule(
        seed=seed,
        scheduler=ProServeAsyncScheduler,
        depth=2,
        offload=offload,
        budget=CopyBudget.FIXED,
        blocks=26,
        requests=40,
        failing=failing,
        resets=True,
    )


@given(
    schedule=st.builds(
        lambda variant, **drawn: KvSchedule(scheduler=variant[0], depth=variant[1], **drawn),
        variant=st.sampled_from([(ProServeScheduler, 1), (ProServeAsyncScheduler, 1), (ProServeAsyncScheduler, 2)]),
        seed=st.integers(0, 2**32),
        offload=st.sampled_from([Offload.ASYNC, Offload.ON_PREEMPT]),
        budget=st.sampled_from(CopyBudget),
        host_blocks=st.sampled_from([1, 6, 24, 60, 200]),
        blocks=st.sampled_from([26, 34, 60]),
        requests=st.integers(1, 40),
        failing=st.sampled_from([0.0, 0.0, 0.1, 0.4, 1.0]),
        resets=st.booleans(),
        prefix_caching=st.booleans(),
    )
)
@example(schedule=damage_that_outlives_its_request(591865, Offload.ASYNC, 0.1))
@example(schedule=damage_that_outlives_its_request(984669, Offload.ON_PREEMPT, 0.4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_schedule_ends_in_the_right_tokens_and_leaves_nothing_behind(tiny_model: str, schedule: KvSchedule) -> None:
    run_schedule(schedule, tiny_model)


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
        assert count(engine.scheduler, "recomputed_tokens_total") > 0
    assert most == 2 if budget is CopyBudget.FIXED else most > 2


def two_who_wait(scheduler: type, *, step_tokens: int, depth: int, model: str) -> tuple[Engine, ChosenPolicy]:
    """An engine that may copy two blocks a step, and whose host memory has those of `first` and `second`, preempted."""
    engine = Engine(
        scheduler,
        model=model,
        kv=kv(200, offload=Offload.ON_PREEMPT, copy_budget=CopyBudget.FIXED, copy_blocks=2),
        blocks=100,
        step_tokens=step_tokens,
        depth=depth,
        prefix_caching=False,
    )
    chosen = engine.scheduler._proserve.adapter._policy = ChosenPolicy()
    for number, name in enumerate(("first", "second", "filler")):
        engine.submit(name, prompt=[number] * 80, output=40, facts=HIGH)
    for _ in range(3):
        engine.step()
    chosen.preempt("first")
    chosen.preempt("second")
    for _ in range(4):
        engine.step()
    return engine, chosen


@every_scheduler
def test_what_a_spent_budget_leaves_is_computed_in_the_step_that_was_planned(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    engine, chosen = two_who_wait(scheduler, step_tokens=512, depth=depth, model=tiny_model)
    tokens = {name: engine.scheduler.requests[name].num_tokens for name in ("first", "second")}
    chosen.paused.clear()
    scheduled = engine.step()
    assert scheduled["first"] == tokens["first"] - 2 * BLOCK
    assert scheduled["second"] == tokens["second"]
    engine.run()
    assert engine.wrong_outputs() == {}
    check_that_nothing_is_left(engine)


@every_scheduler
def test_a_spent_budget_takes_no_tokens_that_are_planned_for_others(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    # Once the first one's blocks are back, the second one needs 32 tokens more than were planned for it.
    engine, chosen = two_who_wait(scheduler, step_tokens=260, depth=depth, model=tiny_model)
    engine.submit("third", prompt=[3] * 500, output=4, facts=HIGH)
    chosen.paused.clear()
    scheduled = engine.step()
    planned = {entry.id: entry.tokens for entry in engine.scheduler._proserve.adapter.plan.entries}
    assert sum(planned.values()) == 260
    assert scheduled == planned
    engine.run()
    assert engine.wrong_outputs() == {}
    check_that_nothing_is_left(engine)


def test_the_time_to_begin_copies_ahead_counts_as_waited_for(tiny_model: str) -> None:
    engine = engine_with(kv(200), ProServeScheduler, model=tiny_model, seed=0, blocks=34, sequences=8)
    ticks = itertools.count()
    engine.scheduler._kv._offloading._clock = lambda: next(ticks) * 1e-3
    begun = 0

    def look(output: Any) -> None:
        nonlocal begun
        copies = output.kv_connector_metadata.copies
        begun += len(copies.flushes) + len(copies.offloads)

    engine.on_schedule = look
    submit_many(engine)
    engine.run()
    assert begun > 0
    assert count(engine.scheduler, "copy_exposed_seconds_total", direction="offload") >= begun * 1e-3


def test_who_loses_host_blocks_to_others_is_told_so_at_once(tiny_model: str) -> None:
    engine = engine_with(
        kv(6, offload=Offload.ON_PREEMPT), ProServeScheduler, model=tiny_model, seed=0, blocks=34, sequences=8,
        prefix_caching=False,
    )  # fmt: skip
    states, copies = engine.scheduler._proserve.adapter.tracker.states, engine.scheduler._kv.copies
    checked = 0

    def look(_: Any) -> None:
        nonlocal checked
        for state in states.values():
            if not state.resident and state.host_tokens:
                checked += 1
                assert state.host_tokens <= BLOCK * copies.holding(state.id).usable

    engine.on_schedule = look
    submit_many(engine)
    engine.run()
    assert checked > 0
    assert count(engine.scheduler, "evicted_blocks_total") > 0


def test_snapshots_say_how_much_room_the_host_has(tiny_model: str) -> None:
    engine = Engine(ProServeScheduler, model=tiny_model, kv=kv(200, offload=Offload.ON_PREEMPT))
    chosen = engine.scheduler._proserve.adapter._policy = ChosenPolicy()
    for name in ("victim", "filler"):
        engine.submit(name, prompt=80, output=40, facts=HIGH)
    engine.step()
    chosen.preempt("victim")
    engine.step()
    snapshot = engine.scheduler._proserve._snapshot()
    assert (snapshot.host_blocks, snapshot.free_host_blocks) == (200, 195)


def test_switched_off_nothing_is_copied(tiny_model: str) -> None:
    engine = engine_with(
        kv(200, offload=Offload.OFF), ProServeScheduler, model=tiny_model, seed=0, blocks=34, sequences=8
    )
    submit_many(engine)
    engine.run()
    assert engine.wrong_outputs() == {}
    assert count(engine.scheduler, "copied_blocks_total", direction="offload") == 0
    assert count(engine.scheduler, "recomputed_tokens_total") > 0
