"""`fair-batching` by hand-worked examples: a step costs 10 ms and 1 ms per token, TTFT 1 s, TPOT 50 ms."""

import pytest

from engine_builders import decoding, engine_limits, engine_state, prefilling, waiting
from proserve_core.batching import BatchPlan
from proserve_core.batching.fair_batching import FairBatching


def entries(plan: BatchPlan) -> list[tuple[str, int]]:
    return [(entry.id, entry.tokens) for entry in plan.entries]


def test_prompts_go_between_decodes_that_are_due_and_decodes_that_can_wait() -> None:
    # Slacks: due 100 ms, next 140 ms (below 100 + 50), relaxed 160 ms; budget 100 ms.
    state = engine_state(
        decoding("relaxed", arrival_s=9.11),
        decoding("due", arrival_s=9.050),
        decoding("next", arrival_s=9.09),
        waiting("prompt", 30, arrival_s=9.5),
        now_s=10.0,
    )
    plan = FairBatching().plan(state)
    assert entries(plan) == [("due", 1), ("next", 1), ("prompt", 30), ("relaxed", 1)]


def test_the_tightest_slack_is_the_budget() -> None:
    # 100 ms: 10 + 1 for the decode leave 89 tokens.
    state = engine_state(decoding("due", arrival_s=9.05), waiting("prompt", 2000, arrival_s=9.5), now_s=10.0)
    plan = FairBatching().plan(state)
    assert plan.entries[1].tokens in (88, 89)
    assert plan.predicted_s == pytest.approx(0.1, abs=0.0011)


def test_one_tpot_is_the_least_budget() -> None:
    # The decode is 4 s late: 50 ms, 10 + 1 for the decode leave 39 tokens.
    state = engine_state(decoding("late", arrival_s=4.95), waiting("prompt", 2000, arrival_s=9.5), now_s=10.0)
    assert entries(FairBatching().plan(state)) == [("late", 1), ("prompt", 39)]


def test_prompts_are_ordered_by_deadline_started_or_not_and_without_decodes_only_tokens_bind() -> None:
    state = engine_state(
        prefilling("started", 600, 100, arrival_s=2.0),
        waiting("older", 600, arrival_s=1.0),
        waiting("newer", 600, arrival_s=3.0),
        limits=engine_limits(max_step_tokens=1200),
        now_s=3.0,
    )
    assert entries(FairBatching().plan(state)) == [("older", 600), ("started", 500), ("newer", 100)]
