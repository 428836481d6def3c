"""The filler's own rules, with orders given by hand. A step costs 10 ms and 1 ms per token."""

import pytest

from engine_builders import H100_LLAMA_8B, decoding, engine_limits, engine_state, prefilling, waiting
from proserve_core.batching import BatchPlan, EngineState, Reason
from proserve_core.batching.fill import FillOptions, blocks_for, fill, first_chunk


def fill_in_order(state: EngineState, options: FillOptions | None = None, budget_s: float = float("inf")) -> BatchPlan:
    residents = [request for request in state.requests if request.resident]
    return fill(state, order=state.requests, residents=residents, options=options or FillOptions(), budget_s=budget_s)


def entries(plan: BatchPlan) -> list[tuple[str, int]]:
    return [(entry.id, entry.tokens) for entry in plan.entries]


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2)])
def test_blocks_are_counted_whole(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens, 16) == blocks


def test_decodes_stop_at_the_time_budget() -> None:
    plan = fill_in_order(engine_state(*[decoding(name) for name in "abcde"]), budget_s=0.0131)
    assert entries(plan) == [("a", 1), ("b", 1), ("c", 1)]
    assert plan.reason("d") is Reason.STEP_TIME
    assert plan.reason("e") is Reason.STEP_TIME
    assert plan.order == ("a", "b", "c", "d", "e")


def test_the_first_request_runs_even_when_the_budget_is_too_short() -> None:
    assert entries(fill_in_order(engine_state(decoding("a"), decoding("b")), budget_s=0.001)) == [("a", 1)]
    # As many prompt tokens as cost what the step's constant costs: 10 ms.
    assert entries(fill_in_order(engine_state(waiting("p", 500)), budget_s=0.001)) == [("p", 10)]


def test_the_first_chunk_beyond_the_budget_reaches_the_knee() -> None:
    assert first_chunk(H100_LLAMA_8B, min_chunk=1) == 267


def test_a_partial_chunk_below_the_minimum_waits_for_step_tokens() -> None:
    state = engine_state(decoding("a"), prefilling("p", 100, 20), limits=engine_limits(max_step_tokens=31))
    plan = fill_in_order(state, FillOptions(min_chunk=40))
    assert entries(plan) == [("a", 1)]
    assert plan.reason("p") is Reason.STEP_TOKENS


def test_without_slots_the_residents_behind_still_run() -> None:
    state = engine_state(decoding("a"), waiting("w", 10), decoding("b"), limits=engine_limits(max_sequences=2))
    plan = fill_in_order(state)
    assert entries(plan) == [("a", 1), ("b", 1)]
    assert plan.reason("w") is Reason.SEQUENCES


def test_an_admission_that_takes_the_last_slot_closes_the_door() -> None:
    state = engine_state(
        waiting("w1", 10), waiting("w2", 10), decoding("a"), decoding("b"), limits=engine_limits(max_sequences=3)
    )
    plan = fill_in_order(state, budget_s=0.0211)
    assert entries(plan) == [("w1", 10), ("a", 1)]
    assert plan.reason("w2") is Reason.SEQUENCES
    assert plan.reason("b") is Reason.STEP_TIME


def test_victims_come_from_the_tail_and_nobody_is_preempted_in_vain() -> None:
    # a needs one block; b and c behind it hold 3 and 1.
    state = engine_state(
        decoding("a", prompt_tokens=32),
        decoding("b", prompt_tokens=40),
        decoding("c", prompt_tokens=10),
        free_blocks=0,
    )
    plan = fill_in_order(state)
    assert plan.preempt == ("c",)
    assert entries(plan) == [("a", 1), ("b", 1)]
    # A prompt that needs more than all those behind it hold takes nothing.
    a, b = decoding("a", prompt_tokens=20), decoding("b", prompt_tokens=20)
    state = engine_state(a, waiting("w", 200), b, free_blocks=0)
    plan = fill_in_order(state, FillOptions(skip=True))
    assert plan.preempt == ()
    assert plan.reason("w") is Reason.BLOCKS
    assert entries(plan) == [("a", 1), ("b", 1)]


def test_waiting_requests_preempt_only_when_allowed() -> None:
    state = engine_state(waiting("w", 30), decoding("a", prompt_tokens=20), free_blocks=0)
    assert fill_in_order(state).preempt == ("a",)
    forbidden = fill_in_order(state, FillOptions(waiting_preempts=False))
    assert (forbidden.preempt, entries(forbidden)) == ((), [("a", 1)])


def test_admission_needs_blocks_for_the_whole_sequence_but_takes_only_the_chunk() -> None:
    limits = engine_limits(blocks=6, max_step_tokens=20)
    state = engine_state(waiting("w", 96), limits=limits)
    assert entries(fill_in_order(state)) == [("w", 20)]
    state = engine_state(decoding("a", prompt_tokens=8), waiting("w", 96), limits=limits)
    assert entries(fill_in_order(state)) == [("a", 1)]


def test_a_preempted_resident_frees_its_slot() -> None:
    state = engine_state(waiting("w1", 16), waiting("w2", 16), decoding("a"), decoding("b"), free_blocks=0)
    plan = fill_in_order(
        engine_state(*state.requests, free_blocks=0, limits=engine_limits(max_sequences=3)), FillOptions(skip=True)
    )
    assert plan.preempt == ("b",)
    assert entries(plan)[:2] == [("w1", 16), ("w2", 16)]


def test_protected_residents_lose_neither_blocks_nor_slots_to_the_waiting() -> None:
    options = FillOptions(skip=True, waiting_takes_slots=True)
    rich, worn = decoding("rich"), decoding("worn")

    def with_protection(count: int) -> BatchPlan:
        state = engine_state(waiting("w", 10), rich, worn, limits=engine_limits(max_sequences=2))
        return fill(state, order=state.requests, residents=[rich, worn], options=options, protected=count)

    assert with_protection(1).preempt == ("worn",)
    assert entries(with_protection(1)) == [("w", 10), ("rich", 1)]
    assert with_protection(2).preempt == ()
    assert with_protection(2).reason("w") is Reason.SEQUENCES


def test_a_resident_still_takes_blocks_of_protected_ones_behind_it() -> None:
    growing, behind = decoding("growing", prompt_tokens=32), decoding("behind")
    state = engine_state(growing, behind, free_blocks=0)
    plan = fill(state, order=[growing, behind], residents=[growing, behind], options=FillOptions(), protected=2)
    assert plan.preempt == ("behind",)


def test_prompts_together_stay_within_their_own_budget() -> None:
    state = engine_state(decoding("a"), prefilling("p", 100, 1), prefilling("q", 100, 1), decoding("b"))
    plan = fill(
        state,
        order=state.requests,
        residents=state.requests,
        options=FillOptions(skip=True, min_chunk=5),
        budget_s=0.1,
        prefill_budget_s=0.0305,
    )
    assert entries(plan) == [("a", 1), ("p", 30), ("b", 1)]
    assert plan.reason("q") is Reason.STEP_TIME


def test_a_prompt_that_is_alone_gets_its_least_chunk_whatever_its_budget() -> None:
    state = engine_state(waiting("p", 100))
    plan = fill(
        state, order=state.requests, residents=[], options=FillOptions(min_chunk=5), budget_s=0.1, prefill_budget_s=0.0
    )
    assert entries(plan) == [("p", 5)]
