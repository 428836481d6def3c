"""SlidingChunker by hand: greedy where time is linear in tokens, a split where the knee makes it pay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_builders import H100_LLAMA_8B, MILLISECOND_PER_TOKEN, decoding, engine_state, service_terms, waiting
from proserve_core.batching import RequestState
from proserve_core.batching.request_columns import RequestColumns
from proserve_core.batching.sliding_serve.chunker import DecodeLoad, SlidingChunker
from proserve_core.batching.sliding_serve.prompt_line import PromptLine
from proserve_core.latency import LatencyModel

KNEE = LatencyModel(
    host_s=0.0,
    floor_s=0.007,
    linear_base_s=0.002,
    linear_token_s=2e-5,
    attention_s=0.0,
    context_s=0.0,
    sequence_s=0.0,
)
"""7 ms up to 250 tokens, then 2 ms and 20 us per token."""


def load(*decodes: RequestState) -> DecodeLoad:
    return DecodeLoad.of(RequestColumns(engine_state(*decodes, now_s=10.0)), 10.0)


def chunker(
    latency: LatencyModel,
    *,
    slack_s: float,
    prompts: list[RequestState],
    tpot_s: float = 0.05,
    decodes: int = 1,
    limit_tokens: int = 100_000,
    least_tokens: int = 0,
) -> SlidingChunker:
    """Decodes are due `slack_s` from now."""
    terms = service_terms(ttft_s=1.0, tpot_s=tpot_s)
    return SlidingChunker(
        predict_s=lambda features: latency.step_s(features.work()),
        now_s=10.0,
        decodes=load(
            *(
                decoding(f"d{number}", arrival_s=9.0 + slack_s - tpot_s, terms=terms, first_token_s=9.5)
                for number in range(decodes)
            )
        ),
        line=PromptLine(prompts),
        slack_s=slack_s,
        limit_tokens=limit_tokens,
        least_tokens=least_tokens,
        grid_tokens=32,
    )


def test_where_time_is_linear_the_greedy_pair_is_the_best() -> None:
    # 10 ms + 1 for the decode: 89 tokens fit 100.5 ms. The next step may end at 150.5 ms: 10 + 1 + 39. Every other
    # split has 128 tokens in 150 ms, too.
    problem = chunker(MILLISECOND_PER_TOKEN, slack_s=0.1005, prompts=[waiting("p", 5000, arrival_s=9.9)])
    best = problem.best()
    assert best == problem.greedy()
    assert (best.first, best.second) == (89, 39)


@given(
    slack_ms=st.integers(12, 2000),
    tpot_ms=st.integers(12, 200),
    decodes=st.integers(1, 60),
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=8),
)
def test_greedy_is_optimal_on_every_linear_model(slack_ms: int, tpot_ms: int, decodes: int, lengths: list[int]) -> None:
    prompts = [waiting(f"p{number}", tokens, arrival_s=100.0) for number, tokens in enumerate(lengths)]
    problem = chunker(
        MILLISECOND_PER_TOKEN,
        slack_s=slack_ms / 1000 + 0.0005,
        tpot_s=tpot_ms / 1000,
        decodes=decodes,
        prompts=prompts,
    )
    assert problem.best() == problem.greedy()


def test_a_knee_makes_the_split_win() -> None:
    # Greedy: 1399 tokens fill 30 ms, and 5 ms later is too soon for any step. Leaving 7.38 ms to the second window
    # costs 119 tokens and wins 268.
    problem = chunker(KNEE, slack_s=0.03001, tpot_s=0.005, prompts=[waiting("p", 5000, arrival_s=9.9)])
    assert (problem.greedy().first, problem.greedy().second) == (1399, 0)
    best = problem.best()
    assert (best.first, best.second) == (1280, 268)
    assert best.first_s + best.second_s < 0.03001 + 0.005


def test_it_is_never_worse_than_greedy_on_a_measured_model() -> None:
    for slack_ms in range(0, 200, 7):
        for tpot_ms in (5, 8, 20, 50):
            prompts = [waiting(f"p{number}", 40 + 173 * number, arrival_s=9.9) for number in range(12)]
            problem = chunker(
                H100_LLAMA_8B, slack_s=slack_ms / 1000, tpot_s=tpot_ms / 1000, decodes=40, prompts=prompts
            )
            assert problem.best().tokens >= problem.greedy().tokens


def test_prompts_that_the_first_window_finishes_are_decodes_of_the_second() -> None:
    # 100 + 20 of the next prompt fill 131.5 ms; the next one may end at 181.5 ms: 10 + 2 decodes + 38.
    problem = chunker(
        MILLISECOND_PER_TOKEN,
        slack_s=0.1315,
        prompts=[waiting("done", 100, arrival_s=9.9), waiting("next", 500, arrival_s=9.9)],
    )
    greedy = problem.greedy()
    assert (greedy.first, greedy.second, greedy.started, greedy.tokens) == (120, 38, 1, 159)
    assert [request.id for request in problem.finished(greedy.first)] == ["done"]


def test_limits_of_a_step_and_the_end_of_the_prompts_bind_in_both_windows() -> None:
    limited = chunker(MILLISECOND_PER_TOKEN, slack_s=9.0, prompts=[waiting("p", 900)], limit_tokens=301, decodes=1)
    assert (limited.greedy().first, limited.greedy().second) == (300, 300)
    ended = chunker(MILLISECOND_PER_TOKEN, slack_s=9.0, prompts=[waiting("p", 900)])
    assert (ended.greedy().first, ended.greedy().second) == (900, 0)


def test_prompts_get_their_least_however_late_decodes_are() -> None:
    problem = chunker(MILLISECOND_PER_TOKEN, slack_s=-3.0, prompts=[waiting("p", 900)], least_tokens=128)
    assert problem.best().first == 128


@pytest.mark.parametrize(("first_token_s", "due_s"), [(0.4, 1.15), (1.0, 1.15), (5.0, 5.15)])
def test_a_late_first_token_moves_the_deadlines_of_the_others(first_token_s: float, due_s: float) -> None:
    request = decoding("d", arrival_s=0.0, emitted=3, first_token_s=first_token_s)
    assert load(request).due_s == pytest.approx(due_s)
