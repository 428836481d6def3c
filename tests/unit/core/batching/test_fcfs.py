"""`fcfs` by hand-worked examples of vLLM V1's scheduler."""

from engine_builders import decoding, engine_limits, engine_state, prefilling, waiting
from proserve_core.batching import BatchPlan, Reason
from proserve_core.batching.fcfs import Fcfs


def entries(plan: BatchPlan) -> list[tuple[str, int]]:
    return [(entry.id, entry.tokens) for entry in plan.entries]


def test_residents_run_first_then_waiting_in_order_of_arrival() -> None:
    plan = Fcfs().plan(engine_state(decoding("a"), waiting("w1", 30), prefilling("b", 50, 20), waiting("w2", 10)))
    assert entries(plan) == [("a", 1), ("b", 30), ("w1", 30), ("w2", 10)]


def test_the_last_prompt_is_cut_to_the_step_tokens() -> None:
    state = engine_state(decoding("a"), waiting("w1", 30), waiting("w2", 10), limits=engine_limits(max_step_tokens=20))
    plan = Fcfs().plan(state)
    assert entries(plan) == [("a", 1), ("w1", 19)]
    assert plan.reason("w2") is Reason.STEP_TOKENS


def test_sequence_limit_counts_residents() -> None:
    plan = Fcfs().plan(
        engine_state(decoding("a"), waiting("w1", 30), waiting("w2", 10), limits=engine_limits(max_sequences=2))
    )
    assert entries(plan) == [("a", 1), ("w1", 30)]
    assert plan.reason("w2") is Reason.SEQUENCES


def test_block_shortage_preempts_the_last_resident_and_admits_nobody() -> None:
    # Each holds 2 blocks of 16 and is at 32 tokens: the next token needs a third block.
    state = engine_state(
        decoding("a", prompt_tokens=32),
        decoding("b", prompt_tokens=32),
        decoding("c", prompt_tokens=32),
        waiting("w", 8),
        limits=engine_limits(blocks=6),
    )
    plan = Fcfs().plan(state)
    assert entries(plan) == [("a", 1), ("b", 1)]
    assert plan.preempt == ("c",)
    assert plan.reason("c") is Reason.PREEMPTED
    assert plan.reason("w") is Reason.BLOCKS
    assert plan.order == ("a", "b")


def test_with_nobody_behind_it_a_resident_gives_up_its_own_blocks() -> None:
    state = engine_state(
        decoding("a", prompt_tokens=20), decoding("b", prompt_tokens=32), limits=engine_limits(blocks=4)
    )
    plan = Fcfs().plan(state)
    assert entries(plan) == [("a", 1)]
    assert plan.preempt == ("b",)


def test_a_waiting_request_is_admitted_only_when_its_whole_sequence_fits_and_holds_up_those_behind() -> None:
    state = engine_state(
        decoding("a"),
        waiting("long", 160),
        waiting("short", 16),
        limits=engine_limits(blocks=11, max_step_tokens=32),
    )
    plan = Fcfs().plan(state)
    assert entries(plan) == [("a", 1)]
    assert plan.preempt == ()
    assert plan.reason("long") is Reason.BLOCKS
    assert plan.reason("short") is Reason.BEHIND


def test_residents_beyond_the_step_tokens_pause_and_stay_in_the_victim_order() -> None:
    state = engine_state(
        prefilling("a", 40, 10), decoding("b"), decoding("c"), limits=engine_limits(max_step_tokens=31)
    )
    plan = Fcfs().plan(state)
    assert entries(plan) == [("a", 30), ("b", 1)]
    assert plan.reason("c") is Reason.STEP_TOKENS
    assert plan.order == ("a", "b", "c")


def test_a_preempted_request_computes_its_emitted_tokens_again() -> None:
    plan = Fcfs().plan(engine_state(waiting("a", 20, emitted=5)))
    assert entries(plan) == [("a", 25)]
