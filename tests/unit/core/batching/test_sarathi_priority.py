"""`sarathi-priority` by hand-worked examples."""

from engine_builders import decoding, engine_limits, engine_state, prefilling, service_terms, waiting
from proserve_core.batching import Reason
from proserve_core.batching.sarathi_priority import SarathiPriority
from proserve_core.batching.step_tokens import StepTokensOptions

HEAVY, LIGHT = service_terms(2.0), service_terms(1.0)


def test_each_stage_is_ordered_by_weight_then_arrival_and_stages_stay_apart() -> None:
    state = engine_state(
        waiting("light-waiting", 50, terms=LIGHT, arrival_s=0.0),
        waiting("heavy-waiting", 50, terms=HEAVY, arrival_s=9.0),
        prefilling("light-started", 50, 10, terms=LIGHT, arrival_s=1.0),
        prefilling("heavy-started", 50, 10, terms=HEAVY, arrival_s=2.0),
        decoding("light-decode", terms=LIGHT, arrival_s=3.0),
        decoding("late-heavy-decode", terms=HEAVY, arrival_s=5.0),
        decoding("heavy-decode", terms=HEAVY, arrival_s=4.0),
    )
    plan = SarathiPriority(StepTokensOptions(step_tokens=100)).plan(state)
    assert [(entry.id, entry.tokens) for entry in plan.entries] == [
        ("heavy-decode", 1),
        ("late-heavy-decode", 1),
        ("light-decode", 1),
        ("heavy-started", 40),
        ("light-started", 40),
        ("heavy-waiting", 17),
    ]
    assert plan.reason("light-waiting") is Reason.STEP_TOKENS


def test_on_block_shortage_the_lightest_resident_goes_but_never_for_a_waiting_request() -> None:
    limits = engine_limits(blocks=4)
    decodes = (
        decoding("light", prompt_tokens=32, terms=LIGHT),
        decoding("heavy", prompt_tokens=32, terms=HEAVY),
    )
    plan = SarathiPriority().plan(engine_state(*decodes, limits=limits))
    assert ([entry.id for entry in plan.entries], plan.preempt) == (["heavy"], ("light",))
    enough = (decoding("light", prompt_tokens=30, terms=LIGHT), waiting("heavy", 60, terms=HEAVY))
    plan = SarathiPriority().plan(engine_state(*enough, limits=limits))
    assert ([entry.id for entry in plan.entries], plan.preempt) == (["light"], ())
    assert plan.reason("heavy") is Reason.BLOCKS
