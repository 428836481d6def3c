"""`edf` by hand-worked examples: TTFT 1 s and TPOT 50 ms unless said otherwise."""

from engine_builders import decoding, engine_limits, engine_state, prefilling, service_terms, waiting
from proserve_core.batching import Reason
from proserve_core.batching.edf import Edf
from proserve_core.batching.step_tokens import StepTokensOptions


def test_prompts_and_decodes_are_in_one_order_by_the_next_deadline_whatever_the_weight() -> None:
    # Due at 1.0 + 4 * 0.05 = 1.2, at 1.1 and at 0.1 + 0.5 = 0.6 s.
    state = engine_state(
        decoding("decode", emitted=4, arrival_s=0.0, terms=service_terms(9.0)),
        prefilling("started", 100, 50, arrival_s=0.1),
        waiting("short-ttft", 100, arrival_s=0.1, terms=service_terms(ttft_s=0.5)),
    )
    plan = Edf().plan(state)
    assert [(entry.id, entry.tokens) for entry in plan.entries] == [("short-ttft", 100), ("started", 50), ("decode", 1)]


def test_late_prompts_take_the_step_from_decodes_that_are_on_time() -> None:
    """The collapse under overload."""
    state = engine_state(
        decoding("on-time", emitted=1, arrival_s=8.98), waiting("lost", 2000, arrival_s=0.0), now_s=10.0
    )
    plan = Edf(StepTokensOptions(step_tokens=512)).plan(state)
    assert [(entry.id, entry.tokens) for entry in plan.entries] == [("lost", 512)]
    assert plan.reason("on-time") is Reason.STEP_TOKENS


def test_blocks_go_to_the_earlier_deadline() -> None:
    state = engine_state(
        decoding("later", prompt_tokens=32, arrival_s=5.0),
        decoding("earlier", prompt_tokens=32, arrival_s=4.0),
        limits=engine_limits(blocks=4),
    )
    plan = Edf().plan(state)
    assert ([entry.id for entry in plan.entries], plan.preempt) == (["earlier"], ("later",))


def test_a_waiting_prompt_takes_no_blocks_however_late_it_is() -> None:
    """Late requests would take them from each other for every token."""
    state = engine_state(
        decoding("ahead", prompt_tokens=32, arrival_s=5.0),
        waiting("late", 32, arrival_s=0.0),
        limits=engine_limits(blocks=3),
        now_s=6.0,
    )
    plan = Edf().plan(state)
    assert ([entry.id for entry in plan.entries], plan.preempt) == (["ahead"], ())
    assert plan.reason("late") is Reason.BLOCKS
