"""`sarathi` by hand-worked examples."""

from engine_builders import decoding, engine_limits, engine_state, prefilling, waiting
from proserve_core.batching import BatchPlan, Reason
from proserve_core.batching.sarathi import Sarathi
from proserve_core.batching.step_tokens import StepTokensOptions


def entries(plan: BatchPlan) -> list[tuple[str, int]]:
    return [(entry.id, entry.tokens) for entry in plan.entries]


def test_decodes_then_started_prompts_then_waiting_ones_share_the_step_tokens() -> None:
    state = engine_state(
        waiting("w1", 400), prefilling("p", 300, 100), decoding("d1"), waiting("w2", 400), decoding("d2")
    )
    plan = Sarathi().plan(state)
    # 512 - 2 decodes - 200 of p leave 310.
    assert entries(plan) == [("d1", 1), ("d2", 1), ("p", 200), ("w1", 310)]
    assert plan.reason("w2") is Reason.STEP_TOKENS


def test_the_engines_own_step_tokens_bind_where_they_are_fewer() -> None:
    state = engine_state(decoding("d"), waiting("w", 400), limits=engine_limits(max_step_tokens=100))
    assert entries(Sarathi(StepTokensOptions(step_tokens=256)).plan(state)) == [("d", 1), ("w", 99)]


def test_no_block_for_a_decode_preempts_the_last_resident_and_admits_nobody() -> None:
    state = engine_state(
        prefilling("p", 64, 16),
        decoding("a", prompt_tokens=32),
        decoding("b", prompt_tokens=32),
        waiting("w", 8),
        limits=engine_limits(blocks=5),
    )
    plan = Sarathi().plan(state)
    # a needs a third block: p, which is behind all decodes, gives its one. b finds nobody behind and gives up its own.
    assert entries(plan) == [("a", 1)]
    assert plan.preempt == ("p", "b")
    assert plan.reason("w") is Reason.BLOCKS
