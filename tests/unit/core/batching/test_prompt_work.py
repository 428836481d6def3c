"""Sums over a step, worked out by hand."""

from engine_builders import decoding, prefilling, waiting
from proserve_core.batching.prompt_work import decode_work, with_prompts
from proserve_core.latency import StepWork


def test_decodes_add_a_token_and_their_context_each() -> None:
    work = decode_work([decoding("a", prompt_tokens=30, emitted=5), decoding("b", prompt_tokens=10, emitted=1)])
    assert work == StepWork(new_tokens=2, decode_context=34 + 10, sequences=2)


def test_prompts_share_the_tokens_in_their_order() -> None:
    prompts = [prefilling("started", 100, 60), waiting("cut", 50), waiting("none", 50)]
    work = with_prompts(StepWork(new_tokens=3, decode_context=44, sequences=3), prompts, 70)
    # 40^2 + 2*40*60 for the rest of the first, 30^2 for a part of the second.
    assert work == StepWork(new_tokens=73, attention=6400 + 900, decode_context=44, sequences=5)


def test_tokens_that_no_prompt_needs_are_not_counted() -> None:
    assert with_prompts(StepWork(), [waiting("short", 20)], 500) == StepWork(new_tokens=20, attention=400, sequences=1)
