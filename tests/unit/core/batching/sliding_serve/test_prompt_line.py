"""Intervals of a line of prompts, worked out by hand."""

from hypothesis import given
from hypothesis import strategies as st

from engine_builders import prefilling, waiting
from proserve_core.batching.sliding_serve.prompt_line import PromptLine, PromptPart

LINE = PromptLine([prefilling("a", 30, 20), waiting("b", 20), waiting("c", 40)])
"""10 tokens at context 20, then 20 and 40 at context 0."""


def pairs(tokens: int, context: int) -> float:
    return float(sum(context + position + 1 for position in range(tokens)))


def test_an_interval_may_begin_and_end_within_prompts() -> None:
    # The last 4 tokens of a at context 26, all of b, 5 of c.
    assert LINE.part(6, 35) == PromptPart(
        tokens=29, attention=pairs(4, 26) + pairs(20, 0) + pairs(5, 0), context=26, sequences=3
    )


def test_an_interval_within_one_prompt() -> None:
    assert LINE.part(12, 15) == PromptPart(tokens=3, attention=pairs(3, 2), context=2, sequences=1)
    assert LINE.part(15, 15) == PromptPart()


def test_finished_prompts_and_the_contexts_they_decode_with() -> None:
    assert [LINE.finished(end) for end in (9, 10, 29, 30, 70)] == [0, 1, 1, 2, 3]
    assert LINE.finished_context(30) == 30 + 20
    assert (LINE.tokens, PromptLine([]).tokens) == (70, 0)


@given(cut=st.integers(0, 70), end=st.integers(0, 70))
def test_two_intervals_have_the_sums_of_one(cut: int, end: int) -> None:
    cut, end = sorted((cut, end))
    left, right, whole = LINE.part(0, cut), LINE.part(cut, end), LINE.part(0, end)
    assert left.tokens + right.tokens == whole.tokens
    assert left.attention + right.attention == whole.attention
