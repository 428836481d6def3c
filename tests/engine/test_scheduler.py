"""vLLM's scheduler does what the plan says. Real scheduler classes, pretended worker (tests/support/engine_harness)."""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import logging
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from engine_harness import HIGH, LOW, Engine
from engine_policies import RandomPolicy, ScriptedPolicy
from proserve_core.batching import BatchPlan, EngineState, PlanEntry
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_core.batching.registry import POLICIES
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler
from proserve_engine.vllm.seams import WAITING_QUEUES

every_scheduler = pytest.mark.parametrize(
    ("scheduler", "depth"),
    [
        pytest.param(ProServeScheduler, 1, id="sync"),
        pytest.param(ProServeAsyncScheduler, 2, id="async"),
        pytest.param(ProServeAsyncScheduler, 1, id="async-one-step-at-a-time"),
    ],
)


@pytest.fixture(autouse=True)
def _policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "priority")


def engine_with(policy: Any, scheduler: type, *, model: str, **options: Any) -> Engine:
    engine = Engine(scheduler, model=model, **options)
    if policy is not None:
        engine.scheduler._proserve.adapter._policy = policy
    return engine


def metric(engine: Engine, name: str, **labels: str) -> float:
    value = engine.scheduler._proserve.metrics.registry.get_sample_value(f"proserve_engine_{name}", labels)
    assert value is not None
    return float(value)


def plan_of(*entries: tuple[str, int], preempt: tuple[str, ...] = (), order: tuple[str, ...] = ()) -> BatchPlan:
    return BatchPlan(entries=tuple(PlanEntry(*entry) for entry in entries), preempt=preempt, order=order)


@every_scheduler
def test_high_class_is_admitted_before_low_class_that_waits_longer(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    engine = engine_with(None, scheduler, model=tiny_model, sequences=1, depth=depth)
    engine.submit("low", prompt=20, facts=LOW)
    engine.submit("high", prompt=20, facts=HIGH)
    engine.run()
    assert next(iter(engine.scheduled[0])) == "high"
    assert engine.wrong_outputs() == {}


@every_scheduler
def test_every_request_gets_the_tokens_of_the_plan_and_no_other_runs(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    for seed in range(6):
        policy = RandomPolicy(seed)
        # Without a prefix cache, block counts are exact, and a plan that fits can be followed to the letter.
        engine = engine_with(
            policy, scheduler, model=tiny_model, blocks=60, sequences=6, depth=depth, prefix_caching=False
        )
        for number in range(12):
            prompt = [seed * 100 + number] * (10 + 17 * number % 90)
            engine.submit(f"r{number}", prompt=prompt, output=3 + number, facts=HIGH if number % 3 else LOW)

        def follow(output: Any, engine: Engine = engine, policy: RandomPolicy = policy) -> None:
            if engine.scheduler._proserve.adapter.plan is not None:
                assert output.num_scheduled_tokens == {entry.id: entry.tokens for entry in policy.plans[-1].entries}

        engine.on_schedule = follow
        engine.run()
        assert engine.wrong_outputs() == {}
        assert metric(engine, "refused_plans_total") == 0


@every_scheduler
def test_random_schedules_with_prefix_cache_and_preemption_leave_outputs_identical(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    preemptions = 0.0
    for seed in range(10):
        engine = engine_with(RandomPolicy(seed), scheduler, model=tiny_model, blocks=34, sequences=8, depth=depth)
        shared = list(range(48))
        for number in range(16):
            engine.submit(
                f"r{number}",
                prompt=shared[: 16 * (number % 4)] + [number] * (5 + 11 * number % 70),
                output=1 + 7 * number % 40,
                facts=HIGH if number % 2 else LOW,
            )
        engine.run()
        assert engine.wrong_outputs() == {}
        assert engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == 33
        preemptions += metric(engine, "preemptions_total", cause="plan")
    assert preemptions > 10


@every_scheduler
def test_prompt_is_computed_in_the_chunks_of_the_plan_from_admission_on(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    def script(state: EngineState) -> BatchPlan:
        return plan_of(*[(request.id, min(request.pending_tokens, 10)) for request in state.requests])

    engine = engine_with(ScriptedPolicy(script), scheduler, model=tiny_model, depth=depth)
    engine.submit("chunked", prompt=37, output=3, facts=HIGH)
    engine.run()
    assert [step["chunked"] for step in engine.scheduled if step] == [10, 10, 10, 7, 1, 1]
    assert engine.wrong_outputs() == {}


@every_scheduler
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_outputs_are_identical_under_every_policy_in_overload(
    policy: str, scheduler: type, depth: int, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", policy)
    engine = engine_with(None, scheduler, model=tiny_model, blocks=40, sequences=8, depth=depth)
    for number in range(30):
        engine.submit(
            f"r{number}",
            prompt=[number % 5] * 32 + [number] * (5 + 37 * number % 200),
            output=1 + 13 * number % 60,
            facts=HIGH if number % 3 == 0 else LOW,
            age_s=0.05 * number,
        )
        engine.step()
    engine.run()
    assert engine.wrong_outputs() == {}
    assert metric(engine, "refused_plans_total") == 0


@every_scheduler
def test_paused_resident_keeps_its_blocks_and_goes_on_where_it_was(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    paused_steps = 0

    def script(state: EngineState) -> BatchPlan:
        nonlocal paused_steps
        by_id = {request.id: request for request in state.requests}
        entries = [(i, min(r.pending_tokens, 64)) for i, r in by_id.items()]
        paused = by_id.get("paused")
        if paused is not None and paused.emitted_tokens >= 3 and "other" in by_id:
            paused_steps += 1
            assert paused.resident
            assert paused.blocks == -(-paused.computed_tokens // state.limits.block_size)
            entries = [entry for entry in entries if entry[0] != "paused"]
        return plan_of(*entries)

    engine = engine_with(ScriptedPolicy(script), scheduler, model=tiny_model, depth=depth)
    engine.submit("paused", prompt=40, output=10, facts=LOW)
    engine.submit("other", prompt=41, output=12, facts=HIGH)
    engine.run()
    assert paused_steps >= 5
    assert metric(engine, "preemptions_total", cause="plan") == 0
    assert metric(engine, "preemptions_total", cause="blocks") == 0
    assert engine.wrong_outputs() == {}


@every_scheduler
def test_chosen_victim_loses_its_blocks_and_the_newcomer_runs_in_the_same_step(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    def script(state: EngineState) -> BatchPlan:
        by_id = {request.id: request for request in state.requests}
        newcomer, victim = by_id.get("newcomer"), by_id.get("victim")
        if newcomer is None or newcomer.resident or victim is None or not victim.resident:
            slots = sum(request.resident for request in state.requests)
            runs = [r for r in state.requests if r.resident or slots < 2]
            return plan_of(*[(r.id, r.pending_tokens) for r in runs])
        keep = [(r.id, r.pending_tokens) for r in state.requests if r.resident and r is not victim]
        return plan_of(("newcomer", newcomer.pending_tokens), *keep, preempt=("victim",))

    engine = engine_with(
        ScriptedPolicy(script), scheduler, model=tiny_model, sequences=2, depth=depth, prefix_caching=False
    )
    engine.submit("victim", prompt=[1] * 30, output=30, facts=LOW)
    engine.submit("bystander", prompt=[2] * 30, output=30, facts=LOW)
    for _ in range(5):
        engine.step()
    engine.submit("newcomer", prompt=[3] * 30, output=4, facts=HIGH)
    step = engine.step()
    assert list(step) == ["bystander", "newcomer"]
    assert engine.scheduler.requests["victim"].status is RequestStatus.PREEMPTED
    engine.run()
    assert engine.wrong_outputs() == {}
    assert metric(engine, "preemptions_total", cause="plan") == 1


@every_scheduler
def test_least_important_resident_is_the_victim_when_blocks_run_out_unexpectedly(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    def script(state: EngineState) -> BatchPlan:
        # Takes no heed of blocks: vLLM has to find a victim by itself.
        order = sorted(state.requests, key=lambda request: -request.terms.weight)
        return plan_of(*[(r.id, r.pending_tokens) for r in order], order=tuple(r.id for r in order))

    engine = engine_with(
        ScriptedPolicy(script), scheduler, model=tiny_model, blocks=11, depth=depth, prefix_caching=False
    )
    engine.submit("low", prompt=[1] * 60, output=40, facts=LOW)
    engine.submit("high", prompt=[2] * 60, output=40, facts=HIGH)
    engine.run()
    high_steps = [number for number, step in enumerate(engine.scheduled) if "high" in step]
    assert high_steps == list(range(high_steps[0], high_steps[-1] + 1))
    assert metric(engine, "preemptions_total", cause="blocks") >= 1
    assert engine.wrong_outputs() == {}


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize(
    ("ours", "theirs", "depth"),
    [
        pytest.param(ProServeScheduler, Scheduler, 1, id="sync"),
        pytest.param(ProServeAsyncScheduler, AsyncScheduler, 2, id="async"),
    ],
)
def test_without_class_facts_every_step_is_what_plain_vllm_does(
    ours: type, theirs: type, depth: int, policy: str, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", policy)
    engines = [Engine(kind, model=tiny_model, blocks=40, sequences=6, depth=depth) for kind in (ours, theirs)]
    for engine in engines:
        for number in range(14):
            engine.submit(f"r{number}", prompt=[number] * (8 + 13 * number % 120), output=5 + 3 * number)
        engine.run()
    assert [list(step.items()) for step in engines[0].scheduled] == [
        list(step.items()) for step in engines[1].scheduled
    ]
    assert engines[0].outputs == engines[1].outputs


def test_fcfs_with_class_facts_is_plain_vllm_too(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "fcfs")
    engines = [Engine(kind, model=tiny_model, blocks=40, sequences=6) for kind in (ProServeScheduler, Scheduler)]
    for engine in engines:
        for number in range(14):
            facts = HIGH if number % 2 else LOW
            engine.submit(f"r{number}", prompt=[number] * (8 + 13 * number % 120), output=5 + 3 * number, facts=facts)
        engine.run()
    assert engines[0].scheduled == engines[1].scheduled


def test_planning_starts_with_the_first_class_facts_and_ends_with_the_last(tiny_model: str) -> None:
    engine = engine_with(None, ProServeScheduler, model=tiny_model)
    engine.submit("plain", prompt=20, output=12)
    engine.step()
    assert metric(engine, "planned_steps_total") == 0
    engine.submit("high", prompt=20, output=2, facts=HIGH)
    engine.run()
    assert metric(engine, "planned_steps_total") == 2
    assert len(engine.scheduled) > 3
    assert engine.wrong_outputs() == {}


def test_plan_that_vllm_cannot_follow_is_followed_by_a_plain_step(tiny_model: str) -> None:
    def script(state: EngineState) -> BatchPlan:
        # Pauses the resident for a waiting request that cannot be admitted: there is one sequence slot.
        waiting = [request for request in state.requests if not request.resident]
        return plan_of(*[(r.id, r.pending_tokens) for r in waiting or state.requests][:1])

    engine = engine_with(ScriptedPolicy(script), ProServeScheduler, model=tiny_model, sequences=1)
    engine.submit("resident", prompt=20, output=8, facts=HIGH)
    engine.step()
    engine.submit("stuck", prompt=20, output=8, facts=HIGH)
    engine.run(limit=60)
    assert metric(engine, "refused_plans_total") >= 1
    assert engine.wrong_outputs() == {}


@every_scheduler
def test_a_request_that_a_failed_transfer_left_with_nothing_waits_like_the_others(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    engine = engine_with(None, scheduler, model=tiny_model, depth=depth, sequences=1)
    engine.submit("light", prompt=20, facts=LOW)
    # Where it is when it is runnable again, but no block was free in that step.
    vllm = engine.scheduler
    aside = next(queue for name in WAITING_QUEUES if (queue := getattr(vllm, name, None)) is not None)
    vllm.waiting.remove_request(vllm.requests["light"])
    aside.add_request(vllm.requests["light"])
    engine.submit("heavy", prompt=20, facts=HIGH)
    engine.run(limit=60)
    order = [name for step in engine.scheduled for name in step]
    assert order.index("heavy") < order.index("light")
    assert engine.wrong_outputs() == {}


@every_scheduler
def test_requests_that_are_about_to_end_when_they_are_first_noted_do_not_stop_the_engine(
    scheduler: type, depth: int, tiny_model: str
) -> None:
    engine = engine_with(RecoverableGain(), scheduler, model=tiny_model, depth=depth, sequences=32, step_tokens=1024)
    engine.submit("long", prompt=20, output=20, facts=HIGH)
    for number in range(20):
        engine.submit(f"r{number}", prompt=20, output=1, facts=HIGH)
    engine.run(limit=60)
    assert engine.wrong_outputs() == {}


def test_unusable_class_facts_cost_a_counter_and_a_log_line_not_the_request(
    tiny_model: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with(None, ProServeScheduler, model=tiny_model)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="vllm.proserve"):
        engine.submit("bad", prompt=20, extra={"proserve_class": "high", "proserve_weight": "heavy"})
        engine.submit("good", prompt=20, facts=HIGH)
    engine.run()
    assert metric(engine, "bad_facts_total") == 1
    assert [record.getMessage() for record in caplog.records if "bad" in record.getMessage()]
    assert engine.wrong_outputs() == {}


def test_deadlines_count_from_the_clients_arrival(tiny_model: str) -> None:
    engine = engine_with(None, ProServeScheduler, model=tiny_model)
    engine.submit("fresh", prompt=20, facts=HIGH)
    engine.submit("old", prompt=20, facts=HIGH, age_s=0.4)
    states = engine.scheduler._proserve.adapter.tracker.states
    assert states["fresh"].arrival_s - states["old"].arrival_s == pytest.approx(0.4, abs=0.05)


def test_finished_and_aborted_requests_are_forgotten(tiny_model: str) -> None:
    engine = engine_with(None, ProServeScheduler, model=tiny_model)
    engine.submit("aborted", prompt=20, output=50, facts=HIGH)
    engine.submit("done", prompt=20, output=3, facts=HIGH)
    engine.step()
    engine.scheduler.finish_requests("aborted", RequestStatus.FINISHED_ABORTED)
    del engine.prompts["aborted"]
    engine.run()
    tracker = engine.scheduler._proserve.adapter.tracker
    assert not tracker.states
    assert tracker.with_facts == 0
    assert engine.wrong_outputs() == {}


@every_scheduler
def test_a_policy_that_learns_from_ends_is_told_of_them(scheduler: type, depth: int, tiny_model: str) -> None:
    policy = RecoverableGain()
    engine = engine_with(policy, scheduler, model=tiny_model, depth=depth)
    for number in range(5):
        engine.submit(f"r{number}", prompt=20, output=3 + number, facts=HIGH)
    engine.submit("gone", prompt=20, output=100, facts=LOW)
    for _ in range(4):
        engine.step()
    engine.scheduler.finish_requests("gone", RequestStatus.FINISHED_ABORTED)
    engine.run()
    (learned,) = (table for table in policy.learned().tables if table.key == ("all",))
    assert round(sum(learned.events)) == 5
    emitted = sum(learned.exposure) - sum(3 + number for number in range(5))
    assert -1 < emitted <= 4


def test_what_was_learned_of_lengths_outlives_the_engine(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "recoverable-gain")
    monkeypatch.setenv("PROSERVE_LENGTHS_FILE", str(tmp_path / "lengths.json"))
    engine = Engine(ProServeScheduler, model=tiny_model)
    for number in range(5):
        engine.submit(f"r{number}", prompt=20, output=3 + number, facts=HIGH)
    engine.run()
    engine.scheduler.shutdown()
    learned = engine.scheduler._proserve.adapter.policy.learned()
    assert sum(round(sum(table.events)) for table in learned.tables if table.key == ("all",)) == 5
    again = Engine(ProServeScheduler, model=tiny_model)
    assert again.scheduler._proserve.adapter.policy.learned() == learned
