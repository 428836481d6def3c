"""Whose blocks go to others where the host keeps copies."""

import msgspec
import pytest

from engine_builders import H100_LLAMA_8B, decoding, engine_limits, engine_state, service_terms, waiting
from proserve_core.batching import BatchPlan, EngineState, RequestState
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_core.blocks import CopyCosts, Overlap, ResumeModel

RESUME = ResumeModel(
    block_size=16, costs=CopyCosts(start_s=1e-5, block_s=4e-5), latency=H100_LLAMA_8B, overlap=Overlap(layers=32),
    flush_block_s=4e-5,
)  # fmt: skip


def state(*requests: RequestState, free_blocks: int = 0, resume: ResumeModel | None = RESUME) -> EngineState:
    made = engine_state(
        *requests, limits=engine_limits(blocks=sum(r.blocks for r in requests) + free_blocks), latency=H100_LLAMA_8B,
        now_s=1.0, free_blocks=free_blocks,
    )  # fmt: skip
    return msgspec.structs.replace(made, resume=resume)


def plan(*requests: RequestState, free_blocks: int = 0, resume: ResumeModel | None = RESUME) -> BatchPlan:
    return RecoverableGain().plan(state(*requests, free_blocks=free_blocks, resume=resume))


def resident(name: str, *, copied_blocks: int = 0, flush_blocks: int = 0, weight: float = 1.0) -> RequestState:
    """A decode of 1,600 computed tokens, all of whose blocks are full; its next token is due in 5 s."""
    request = decoding(name, prompt_tokens=1591, emitted=10, arrival_s=4.5, terms=service_terms(weight))
    assert request.computed_tokens == 1600
    request.copied_blocks, request.flush_blocks = copied_blocks, flush_blocks
    return request


@pytest.mark.parametrize("flush_blocks", [0, 50])
@pytest.mark.parametrize("copied", ["a", "b", "c"])
def test_of_equals_the_one_that_is_back_for_the_least_engine_time_gives_way(copied: str, flush_blocks: int) -> None:
    residents = [resident(name, copied_blocks=100, flush_blocks=100) for name in "abc" if name != copied]
    residents.insert("abc".index(copied), resident(copied, copied_blocks=100, flush_blocks=flush_blocks))
    first = resident("first", weight=1.1)
    assert plan(first, *residents, waiting("prompt", 4000)).preempt == (copied,)


def test_where_engine_time_has_no_price_the_tail_of_the_order_gives_way() -> None:
    residents = [resident(name, copied_blocks=100 * (name == "a")) for name in "abc"]
    assert plan(resident("first", weight=1.1), *residents).preempt == ("c",)


def test_a_heavy_request_with_copies_outlives_a_light_one_without() -> None:
    late = decoding("light", prompt_tokens=1591, emitted=10, arrival_s=-60.0)
    heavy = resident("heavy", copied_blocks=100, weight=8.0)
    assert plan(resident("first", weight=9.0), heavy, late).preempt == ("light",)


def test_nobody_is_asked_while_blocks_are_free() -> None:
    assert plan(resident("a"), resident("b"), free_blocks=10).preempt == ()


def test_a_copy_under_way_frees_no_blocks() -> None:
    copying = resident("copying", copied_blocks=100)
    copying.copying_blocks = copying.blocks
    assert plan(resident("first", weight=9.0), resident("other"), copying).preempt == ("other",)


def test_who_lost_its_blocks_is_denser_with_copies() -> None:
    densities = []
    for host_tokens in (0, 1600):
        lost = waiting("lost", 1591, arrival_s=0.5, emitted=10)
        lost.computed_tokens = lost.host_tokens = host_tokens
        policy = RecoverableGain()
        assert policy.plan(state(lost, free_blocks=300)).entries[0].tokens == 1601 - host_tokens
        assert policy.ranked is not None
        densities.append(float(policy.ranked.figures["gain_per_s"][0]))
    assert densities[1] > 1.5 * densities[0]
