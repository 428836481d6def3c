"""`srpf` by hand-worked examples."""

from engine_builders import decoding, engine_state, prefilling, service_terms, waiting
from proserve_core.batching.srpf import Srpf
from proserve_core.batching.step_tokens import StepTokensOptions


def test_decodes_first_then_prompts_by_what_is_left_of_them() -> None:
    state = engine_state(
        waiting("long", 300, terms=service_terms(9.0)),
        waiting("short", 60),
        prefilling("nearly-done", 1000, 970),
        prefilling("started", 300, 100),
        decoding("decode"),
    )
    plan = Srpf(StepTokensOptions(step_tokens=400)).plan(state)
    # 1 + 30 + 60 + 200, and 109 are left for the long one.
    assert [(entry.id, entry.tokens) for entry in plan.entries] == [
        ("decode", 1),
        ("nearly-done", 30),
        ("short", 60),
        ("started", 200),
        ("long", 109),
    ]


def test_a_started_prompt_is_overtaken_by_a_shorter_one_and_keeps_its_place_when_equal() -> None:
    options = StepTokensOptions(step_tokens=100)
    started = prefilling("started", 500, 300, arrival_s=1.0)
    overtaken = Srpf(options).plan(engine_state(started, waiting("short", 199, arrival_s=2.0)))
    assert [entry.id for entry in overtaken.entries] == ["short"]
    assert overtaken.order == ("short", "started")
    equal = Srpf(options).plan(engine_state(started, waiting("equal", 200, arrival_s=2.0)))
    assert [entry.id for entry in equal.entries] == ["started"]
