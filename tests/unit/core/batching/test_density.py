"""`density` by hand-worked examples: 1 ms per token."""

import pytest

from engine_builders import H100_LLAMA_8B, decoding, engine_state, prefilling, service_terms, waiting
from proserve_core.batching.density import Density
from proserve_core.batching.step_tokens import StepTokensOptions


def test_gain_per_second_orders_prompts_and_decodes() -> None:
    # Per second: decode 1 / 1 ms = 1000; 4 / 100 ms = 40; 1 / 20 ms = 50; the rest of the started one 1 / 30 ms = 33.
    state = engine_state(
        waiting("heavy", 100, terms=service_terms(4.0)),
        waiting("short", 20),
        prefilling("started", 100, 70),
        decoding("decode"),
    )
    plan = Density(StepTokensOptions(step_tokens=141)).plan(state)
    assert [(entry.id, entry.tokens) for entry in plan.entries] == [
        ("decode", 1),
        ("short", 20),
        ("heavy", 100),
        ("started", 20),
    ]


def test_a_dear_first_token_goes_before_decodes() -> None:
    dear = waiting("dear", 5, terms=service_terms(first_token_gain=10.0))
    plan = Density().plan(engine_state(decoding("decode"), dear))
    assert [entry.id for entry in plan.entries] == ["dear", "decode"]


def test_long_contexts_make_decodes_less_dense() -> None:
    # 19.5 + 7 + 0.042 * context microseconds.
    long, short = decoding("long", prompt_tokens=8000), decoding("short", prompt_tokens=100)
    plan = Density().plan(engine_state(long, short, latency=H100_LLAMA_8B))
    assert [entry.id for entry in plan.entries] == ["short", "long"]


def test_step_tokens_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="step_tokens must be at least 1, got 0"):
        StepTokensOptions(step_tokens=0)
