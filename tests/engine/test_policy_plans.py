"""Under every policy vLLM does what the plan says: who runs and in which order, with how many tokens, who loses blocks.

Each policy of the registry meets waiting requests, chunked prompts, steps of several decodes and a shortage of blocks
on a real engine, where all requests come at once; and on vLLM's scheduler with two steps in flight, which the CPU
engine never has, also steps of decodes and prompts together, because there requests arrive while others decode. There
is no prefix cache, so that block counts are exact and a plan can be followed to the letter; with one, a request may
find more or less of its prompt than the planner knew, and its chunk moves by that (tests of the scheduler cover it).

Under `fcfs` the plug-in leaves scheduling to vLLM, so its plans are compared with what vLLM does by itself. They differ
in one case, with two steps in flight: all residents are about to end and the first in the queue waits for their blocks.
vLLM then schedules nothing; a plan runs somebody further back, because a plan never leaves an engine idle.
"""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import random
from collections.abc import Callable
from typing import Any

import msgspec

from engine_harness import HIGH, LOW, Engine
from plan_recorder import PlanRecorder, RecordedStep
from proserve_core.batching import BatchPlan, PlanEntry
from proserve_core.batching.registry import POLICIES, make_policy
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler
from real_engine import RealEngine

FEW_BLOCKS = 14
"""Of 32 tokens; two or three of the requests below fit at a time."""

every_policy = pytest.mark.parametrize("policy", sorted(POLICIES))


@pytest.fixture(autouse=True)
def _chosen_policy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = getattr(request.node, "callspec", None)
    monkeypatch.setenv("PROSERVE_POLICY", parameters.params.get("policy", "priority") if parameters else "priority")


def recorder_of(scheduler: Any, policy: str, **options: Any) -> PlanRecorder:
    """Records a scheduler under `policy`; of `fcfs` the plans that are not asked for."""
    return PlanRecorder(scheduler, shadow=make_policy(policy) if policy == "fcfs" else None, **options)


def workload(requests: int) -> list[tuple[list[int], int]]:
    """Prompts with nothing in common, some longer than a step, and output tokens."""
    draw = random.Random(3)
    return [
        ([draw.randrange(300, 1000) for _ in range(300 if n % 4 == 1 else draw.randrange(20, 90))], 50 + 3 * n)
        for n in range(requests)
    ]


def pretended(depth: int, scheduler: type = ProServeAsyncScheduler, *, model: str) -> Engine:
    return Engine(
        scheduler, model=model, blocks=2 * FEW_BLOCKS, sequences=8, step_tokens=256, depth=depth, prefix_caching=False
    )


def run_pretended(engine: Engine) -> None:
    for number, (prompt, tokens) in enumerate(workload(12)):
        engine.submit(f"r{number}", prompt=prompt, output=tokens, facts=HIGH if number % 2 else LOW)
        if number > 6:
            engine.step()
    engine.run()
    assert engine.wrong_outputs() == {}


def assert_shortage_was_met(steps: list[RecordedStep]) -> None:
    assert any(step.victims for step in steps)
    assert any(step.waiting for step in steps)
    assert any(step.chunks for step in steps)
    assert any(step.decodes > 1 for step in steps)


@every_policy
@pytest.mark.parametrize("scheduler", [ProServeScheduler, ProServeAsyncScheduler], ids=["sync", "async"])
def test_real_engine_runs_and_preempts_as_planned(policy: str, scheduler: type, real_engine: RealEngine) -> None:
    recorder = recorder_of(real_engine.use(scheduler, blocks=FEW_BLOCKS, prefix_caching=False), policy)
    outputs = real_engine.generate(workload(8), facts=True)
    assert [len(output) for output in outputs] == [tokens for _, tokens in workload(8)]
    assert recorder.differences == []
    assert_shortage_was_met(recorder.steps)


@every_policy
def test_with_two_steps_in_flight_vllm_runs_and_preempts_as_planned(policy: str, tiny_model: str) -> None:
    engine = pretended(2, model=tiny_model)
    recorder = recorder_of(engine.scheduler, policy)
    run_pretended(engine)
    idle = [step for step in recorder.steps if policy == "fcfs" and step.ending and not step.ran]
    assert [step.difference for step in recorder.steps if step.difference and step not in idle] == []
    assert len(idle) <= len(engine.prompts)
    assert_shortage_was_met(recorder.steps)
    # Requests arrive while others decode; on the real engine they come all at once, and some policies finish in waves.
    assert any(step.decodes and step.prompts for step in recorder.steps)


def without_the_last(plan: BatchPlan) -> BatchPlan:
    return msgspec.structs.replace(plan, entries=plan.entries[:-1] or plan.entries)


def halved_chunks(plan: BatchPlan) -> BatchPlan:
    entries = [PlanEntry(entry.id, max(1, entry.tokens // 2)) for entry in plan.entries]
    return msgspec.structs.replace(plan, entries=tuple(entries))


def turned_round(plan: BatchPlan) -> BatchPlan:
    return msgspec.structs.replace(plan, entries=plan.entries[::-1])


def other_victims(plan: BatchPlan) -> BatchPlan:
    """A resident that should run loses its blocks; the one that should lose them pauses. For policies that do not
    admit in such a step."""
    if not plan.preempt or len(plan.entries) < 2:
        return plan
    return msgspec.structs.replace(plan, preempt=(plan.entries[0].id, *plan.preempt[1:]), entries=plan.entries[1:])


@pytest.mark.parametrize("policy", ["sarathi"])
@pytest.mark.parametrize("alter", [without_the_last, halved_chunks, turned_round, other_victims])
def test_a_plan_that_is_not_followed_is_noticed(
    alter: Callable[[BatchPlan], BatchPlan], policy: str, tiny_model: str
) -> None:
    engine = pretended(1, ProServeScheduler, model=tiny_model)
    recorder = PlanRecorder(engine.scheduler, alter=alter)
    run_pretended(engine)
    assert recorder.differences, f"{policy}'s plans were followed"


@pytest.mark.parametrize("policy", ["fcfs"])
def test_plans_of_another_policy_are_not_what_vllm_does_under_fcfs(policy: str, tiny_model: str) -> None:
    engine = pretended(1, ProServeScheduler, model=tiny_model)
    recorder = PlanRecorder(engine.scheduler, shadow=make_policy("priority"))
    run_pretended(engine)
    assert recorder.differences, f"plans of priority are what vLLM does under {policy}"
