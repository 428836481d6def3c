"""A step that begins with decodes taken together is the step that a walk over all of them would give."""

import math
import random

import pytest

from engine_builders import H100_LLAMA_8B, decoding, engine_limits, engine_state, waiting
from proserve_core.batching import EngineState
from proserve_core.batching.decode_head import FEWEST, NOBODY, decode_head
from proserve_core.batching.fill import FillOptions, fill

_DECODES = 3 * FEWEST


def crowd(draw: random.Random, *, free_blocks: int) -> EngineState:
    requests = [decoding(f"d{number}", prompt_tokens=draw.randint(20, 4000)) for number in range(_DECODES)]
    for request in requests:
        # Some have blocks to spare, some need one, a few need several.
        request.blocks += draw.choice([0, 0, 0, 1, -1, -3])
    limits = engine_limits(blocks=100_000, max_sequences=2 * _DECODES)
    return engine_state(*requests, waiting("w", 300), limits=limits, latency=H100_LLAMA_8B, free_blocks=free_blocks)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("limit", ["none", "time", "blocks", "tokens", "all"])
def test_the_plan_is_that_of_the_walk(seed: int, limit: str) -> None:
    draw = random.Random(seed)
    free_blocks = draw.randint(0, 60) if limit in ("blocks", "all") else 50_000
    budget_s = draw.uniform(0.001, 0.013) if limit in ("time", "all") else math.inf
    step_tokens = draw.randint(0, _DECODES + 200) if limit in ("tokens", "all") else math.inf
    state = crowd(draw, free_blocks=free_blocks)
    residents = state.requests.residents
    options = FillOptions(skip=draw.random() < 0.5)
    head = decode_head(residents, state, step_tokens=step_tokens, budget_s=budget_s)
    order = list(state.requests)
    walked = fill(state, order=order, residents=residents, options=options, budget_s=budget_s, step_tokens=step_tokens)
    together = fill(
        state,
        order=order[head.count :],
        residents=residents,
        options=options,
        budget_s=budget_s,
        step_tokens=step_tokens,
        head=head,
    )
    assert together == walked


def test_all_that_fit_are_taken() -> None:
    state = crowd(random.Random(1), free_blocks=50_000)
    assert decode_head(state.requests.residents, state).count == _DECODES
    assert decode_head(state.requests.residents, state, step_tokens=40).count == 40


def test_few_are_left_to_the_walk() -> None:
    state = crowd(random.Random(1), free_blocks=50_000)
    assert decode_head(state.requests.residents[: FEWEST - 1], state) is NOBODY
