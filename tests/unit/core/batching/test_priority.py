"""`priority` by hand-worked examples."""

from engine_builders import decoding, engine_limits, engine_state, service_terms, waiting
from proserve_core.batching import Reason
from proserve_core.batching.priority import Priority

HEAVY, LIGHT = service_terms(2.0), service_terms(1.0)


def test_heavier_first_then_the_clients_arrival() -> None:
    state = engine_state(
        decoding("light-decode", terms=LIGHT, arrival_s=1.0),
        waiting("heavy-late", 20, terms=HEAVY, arrival_s=3.0),
        waiting("heavy-early", 20, terms=HEAVY, arrival_s=2.0),
        decoding("heavy-decode", terms=HEAVY, arrival_s=2.5),
    )
    plan = Priority().plan(state)
    assert [entry.id for entry in plan.entries] == ["heavy-early", "heavy-decode", "heavy-late", "light-decode"]


def test_a_heavy_prompt_leaves_no_step_tokens_to_a_light_decode() -> None:
    state = engine_state(
        decoding("light", terms=LIGHT), waiting("heavy", 500, terms=HEAVY), limits=engine_limits(max_step_tokens=100)
    )
    plan = Priority().plan(state)
    assert [(entry.id, entry.tokens) for entry in plan.entries] == [("heavy", 100)]
    assert plan.reason("light") is Reason.STEP_TOKENS
    assert plan.order == ("heavy", "light")


def test_a_heavy_waiting_request_takes_the_blocks_of_the_latest_light_resident() -> None:
    state = engine_state(
        decoding("light-early", terms=LIGHT, arrival_s=1.0),
        decoding("light-late", terms=LIGHT, arrival_s=2.0),
        waiting("heavy", 40, terms=HEAVY, arrival_s=3.0),
        limits=engine_limits(blocks=6),
    )
    plan = Priority().plan(state)
    assert [entry.id for entry in plan.entries] == ["heavy", "light-early"]
    assert plan.preempt == ("light-late",)


def test_a_light_waiting_request_never_takes_blocks_from_heavier_ones() -> None:
    state = engine_state(
        decoding("heavy", terms=HEAVY), waiting("light", 40, terms=LIGHT), limits=engine_limits(blocks=4)
    )
    plan = Priority().plan(state)
    assert ([entry.id for entry in plan.entries], plan.preempt) == (["heavy"], ())
    assert plan.reason("light") is Reason.BLOCKS
