"""How many blocks come back in a step."""

import pytest

from proserve_core.blocks import CopyCosts, Overlap, Reload, Restorable, ResumeModel
from proserve_core.blocks.returns import ReturnBudget
from proserve_core.blocks.settings import CopyBudget
from proserve_core.latency import LatencyModel, StepWork

LATENCY = LatencyModel(
    host_s=0.0, floor_s=0.0, linear_base_s=0.0, linear_token_s=1e-4, attention_s=0.0, context_s=0.0, sequence_s=0.0
)


def model(block_s: float) -> ResumeModel:
    """16 tokens compute in 1.6 ms."""
    return ResumeModel(
        block_size=16,
        costs=CopyCosts(start_s=0.0, block_s=block_s),
        latency=LATENCY,
        overlap=Overlap(reload=Reload.PIPELINED, layers=32),
    )


def waiting(name: str, blocks: int = 20) -> Restorable:
    return Restorable(request_id=name, tokens=16 * blocks + 1, host_blocks=blocks)


def budget(rule: CopyBudget, copy_blocks: int = 8) -> ReturnBudget:
    made = ReturnBudget(rule, copy_blocks=copy_blocks)
    made.begin_step()
    return made


def test_an_unlimited_budget_gives_all_but_the_last_token() -> None:
    whole = Restorable(request_id="r", tokens=320, host_blocks=20)
    assert budget(CopyBudget.UNLIMITED).blocks(whole, model(1.0)) == 19


def test_a_fixed_budget_is_used_up_in_the_order_of_admission_and_is_full_again_in_the_next_step() -> None:
    fixed = budget(CopyBudget.FIXED)
    assert fixed.blocks(waiting("a", blocks=5), model(0.0)) == 5
    fixed.taken(5)
    assert fixed.blocks(waiting("b"), model(0.0)) == 3
    fixed.taken(3)
    assert fixed.blocks(waiting("c"), model(0.0)) == 0
    fixed.begin_step()
    assert fixed.blocks(waiting("c"), model(0.0)) == 8


def test_an_adaptive_budget_copies_what_is_quicker_to_copy_than_to_compute() -> None:
    adaptive = budget(CopyBudget.ADAPTIVE)
    assert adaptive.blocks(waiting("r"), model(1e-5)) == 20
    assert adaptive.blocks(waiting("r"), model(1.0)) == 0
    # Copied beside what is computed: both take half the time of computing everything.
    assert adaptive.blocks(waiting("r"), model(1.6e-3)) == pytest.approx(10, abs=1)


def test_beside_other_work_an_adaptive_budget_copies_more() -> None:
    alone, beside = budget(CopyBudget.ADAPTIVE), budget(CopyBudget.ADAPTIVE)
    requests = [waiting("a"), waiting("b")]
    alone.plan(requests, base=StepWork(), model=model(1.6e-3))
    beside.plan(requests, base=StepWork(new_tokens=160, sequences=1), model=model(1.6e-3))
    copied = [sum(each.blocks(request, model(1.6e-3)) for request in requests) for each in (alone, beside)]
    assert copied == [pytest.approx(20, abs=1), pytest.approx(25, abs=1)]
    # The least important request computes, the most important one is restored.
    assert alone.blocks(requests[0], model(1.6e-3)) > alone.blocks(requests[1], model(1.6e-3))
