"""The full house by hand: a step costs 10 ms and 1 ms per token."""

import numpy as np
import pytest

from engine_builders import MILLISECOND_PER_TOKEN, decoding, engine_limits, engine_state, waiting
from proserve_core.batching.full_house import FLOW_MEMORY_S, OutputFlow, full_house_s, room_for
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_core.latency import LatencyModel


def house_s(*requests: tuple[int, int], room: float = 1.0, latency: LatencyModel = MILLISECOND_PER_TOKEN) -> float:
    """`requests`: prompt and output tokens; each has its prompt and half its output as context."""
    prompt, output = np.array(requests, dtype=np.float64).T
    return full_house_s(prompt=prompt, output=output, context=prompt + output / 2, room=room, latency=latency)


def test_each_decode_brings_its_share_of_a_prompt() -> None:
    # 2 decodes and 100 / 50 + 60 / 20 = 5 prompt tokens: 7 ms and the constant.
    assert house_s((100, 50), (60, 20)) == pytest.approx(0.017)


def test_room_for_more_residents_makes_longer_steps() -> None:
    assert house_s((100, 50), (60, 20), room=3.0) == pytest.approx(0.031)


def test_long_outputs_make_shorter_steps_than_long_prompts() -> None:
    assert house_s((100, 1000)) < house_s((100, 100)) < house_s((1000, 100))


def test_the_shorter_of_slots_and_blocks_decides_how_many_fit() -> None:
    limits = engine_limits(blocks=100, max_sequences=30)
    assert room_for(10, limits=limits, free_blocks=80) == 3.0
    assert room_for(10, limits=limits, free_blocks=50) == 2.0
    assert room_for(10, limits=limits, free_blocks=100) == 3.0


def flow_of(tokens_per_s: float, *, seconds: float) -> OutputFlow:
    """Ten requests per second with as many tokens between them."""
    flow = OutputFlow()
    for step in range(round(10 * seconds) + 1):
        flow.note(tokens_per_s / 10, now_s=step / 10)
    return flow


def test_the_flow_is_what_arrived_lately() -> None:
    assert flow_of(500.0, seconds=100).tokens_per_s == pytest.approx(500.0, rel=0.01)
    assert flow_of(500.0, seconds=1).tokens_per_s < 50.0


def test_a_burst_is_spread_over_the_memory_and_fades() -> None:
    flow = OutputFlow()
    flow.note(300.0, now_s=5.0)
    assert flow.tokens_per_s == pytest.approx(300.0 / FLOW_MEMORY_S)
    flow.note(0.0, now_s=5.0 + FLOW_MEMORY_S)
    assert flow.tokens_per_s == pytest.approx(300.0 / FLOW_MEMORY_S / np.e)


def test_a_flow_fills_the_house_by_littles_law() -> None:
    # 50 tokens per step of 100 ms keep 50 decodes busy.
    assert flow_of(500.0, seconds=200).filling_s(50.0) == pytest.approx(0.1, rel=0.01)
    assert OutputFlow().filling_s(50.0) == np.inf


def test_steps_are_shorter_where_slots_are_short() -> None:
    def step_s(max_sequences: int) -> float:
        residents = [decoding(f"decode-{number}", emitted=5) for number in range(4)]
        prompts = [waiting(f"prompt-{number}", 400) for number in range(20)]
        state = engine_state(*residents, *prompts, limits=engine_limits(max_sequences=max_sequences))
        return RecoverableGain().plan(state).predicted_s

    assert step_s(64) > 0.03
    assert step_s(5) < 0.02
